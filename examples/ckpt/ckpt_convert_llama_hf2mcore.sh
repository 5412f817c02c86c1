#!/usr/bin/env bash
# Llama 3 from Hugging Face to a Megatron checkpoint, which loads at any tensor- and pipeline-parallel size.
#
#   LOAD_DIR=... SAVE_DIR=... bash examples/ckpt/ckpt_convert_llama_hf2mcore.sh [flags of mindrl convert]
#
# LOAD_DIR       Hugging Face directory: config.json, tokenizer files, safetensors
# SAVE_DIR       checkpoint directory, new (or replaced, with --overwrite)
# PARAMS_DTYPE   bf16, fp32 or fp16
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
command -v mindrl >/dev/null || PATH=$PWD/.venv/bin:$PATH

LOAD_DIR=${LOAD_DIR:-ckpt/hf/Llama-3.1-8B}
SAVE_DIR=${SAVE_DIR:-ckpt/mcore/Llama-3.1-8B}
PARAMS_DTYPE=${PARAMS_DTYPE:-bf16}

exec mindrl convert \
  --use-mcore-models \
  --model-type GPT \
  --load-model-type hf \
  --save-model-type mg \
  --load-dir "$LOAD_DIR" \
  --save-dir "$SAVE_DIR" \
  --params-dtype "$PARAMS_DTYPE" \
  "$@"
