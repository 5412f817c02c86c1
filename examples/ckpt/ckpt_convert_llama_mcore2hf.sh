#!/usr/bin/env bash
# Llama from a Megatron checkpoint to a Hugging Face directory; _convert.sh says what the variables mean.
#
#   LOAD_DIR=... SAVE_DIR=... bash examples/ckpt/ckpt_convert_llama_mcore2hf.sh [flags of mindrl convert]
set -euo pipefail

export LOAD_DIR=${LOAD_DIR:-ckpt/mcore/Llama-3.1-8B}
export SAVE_DIR=${SAVE_DIR:-models/Llama-3.1-8B-trained}
exec bash "$(dirname "${BASH_SOURCE[0]}")/_convert.sh" mg hf "$@"
