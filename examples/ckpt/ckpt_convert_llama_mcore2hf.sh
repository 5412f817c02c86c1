#!/usr/bin/env bash
# Llama 3 from a Megatron checkpoint, converted or saved by training, to a Hugging Face directory.
#
#   LOAD_DIR=... SAVE_DIR=... bash examples/ckpt/ckpt_convert_llama_mcore2hf.sh [flags of mindrl convert]
#
# LOAD_DIR   checkpoint directory (its latest checkpoint is taken), or one iteration's directory in it
# SAVE_DIR   new directory; a Hugging Face directory is kept and gets the result in SAVE_DIR/mg2hg
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
command -v mindrl >/dev/null || PATH=$PWD/.venv/bin:$PATH

LOAD_DIR=${LOAD_DIR:-ckpt/mcore/Llama-3.1-8B}
SAVE_DIR=${SAVE_DIR:-ckpt/hf/Llama-3.1-8B-trained}

exec mindrl convert \
  --use-mcore-models \
  --model-type GPT \
  --load-model-type mg \
  --save-model-type hf \
  --load-dir "$LOAD_DIR" \
  --save-dir "$SAVE_DIR" \
  "$@"
