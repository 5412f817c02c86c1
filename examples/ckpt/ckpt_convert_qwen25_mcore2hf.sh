#!/usr/bin/env bash
# Qwen2.5 from a Megatron checkpoint to a Hugging Face directory; _convert.sh says what the variables mean.
#
#   LOAD_DIR=... SAVE_DIR=... bash examples/ckpt/ckpt_convert_qwen25_mcore2hf.sh [flags of mindrl convert]
set -euo pipefail

export LOAD_DIR=${LOAD_DIR:-ckpt/mcore/Qwen2.5-7B}
export SAVE_DIR=${SAVE_DIR:-models/Qwen2.5-7B-trained}
exec bash "$(dirname "${BASH_SOURCE[0]}")/_convert.sh" mg hf "$@"
