#!/usr/bin/env bash
# The common part of the ckpt_convert_*_mcore2hf.sh scripts: a Megatron checkpoint, converted or saved by training, to a
# Hugging Face directory. All arguments go to `mindrl convert`.
#
# LOAD_DIR   checkpoint directory (its latest checkpoint is taken), or one iteration's directory in it
# SAVE_DIR   new directory; a Hugging Face directory is kept and gets the result in SAVE_DIR/mg2hg
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
command -v mindrl >/dev/null || PATH=$PWD/.venv/bin:$PATH

exec mindrl convert \
  --use-mcore-models \
  --model-type GPT \
  --load-model-type mg \
  --save-model-type hf \
  --load-dir "$LOAD_DIR" \
  --save-dir "$SAVE_DIR" \
  "$@"
