#!/usr/bin/env bash
# The common part of the ckpt_convert_*_hf2mcore.sh scripts: Hugging Face to a Megatron checkpoint, which loads at any
# tensor- and pipeline-parallel size. All arguments go to `mindrl convert`.
#
# LOAD_DIR       Hugging Face directory: config.json, tokenizer files, safetensors
# SAVE_DIR       checkpoint directory, new (or replaced, with --overwrite)
# PARAMS_DTYPE   bf16 (default), fp32 or fp16
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
command -v mindrl >/dev/null || PATH=$PWD/.venv/bin:$PATH

exec mindrl convert \
  --use-mcore-models \
  --model-type GPT \
  --load-model-type hf \
  --save-model-type mg \
  --load-dir "$LOAD_DIR" \
  --save-dir "$SAVE_DIR" \
  --params-dtype "${PARAMS_DTYPE:-bf16}" \
  "$@"
