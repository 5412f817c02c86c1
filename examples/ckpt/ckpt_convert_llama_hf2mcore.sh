#!/usr/bin/env bash
# Llama from Hugging Face to a Megatron checkpoint; _convert.sh says what the variables mean.
#
#   LOAD_DIR=... SAVE_DIR=... bash examples/ckpt/ckpt_convert_llama_hf2mcore.sh [flags of mindrl convert]
set -euo pipefail

export LOAD_DIR=${LOAD_DIR:-models/Llama-3.1-8B}
export SAVE_DIR=${SAVE_DIR:-ckpt/mcore/Llama-3.1-8B}
exec bash "$(dirname "${BASH_SOURCE[0]}")/_convert.sh" hf mg "$@"
