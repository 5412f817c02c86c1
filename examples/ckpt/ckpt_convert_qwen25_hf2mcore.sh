#!/usr/bin/env bash
# Qwen2.5 from Hugging Face to a Megatron checkpoint; _convert.sh says what the variables mean.
#
#   LOAD_DIR=... SAVE_DIR=... bash examples/ckpt/ckpt_convert_qwen25_hf2mcore.sh [flags of mindrl convert]
set -euo pipefail

export LOAD_DIR=${LOAD_DIR:-models/Qwen2.5-7B}
export SAVE_DIR=${SAVE_DIR:-ckpt/mcore/Qwen2.5-7B}
exec bash "$(dirname "${BASH_SOURCE[0]}")/_convert.sh" hf mg "$@"
