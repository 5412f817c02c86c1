#!/usr/bin/env bash
# Qwen3-MoE from Hugging Face to a Megatron checkpoint; _convert.sh says what the variables mean.
#
#   LOAD_DIR=... SAVE_DIR=... bash examples/ckpt/ckpt_convert_qwen3_moe_hf2mcore.sh [flags of mindrl convert]
set -euo pipefail

export LOAD_DIR=${LOAD_DIR:-models/Qwen3-30B-A3B}
export SAVE_DIR=${SAVE_DIR:-ckpt/mcore/Qwen3-30B-A3B}
exec bash "$(dirname "${BASH_SOURCE[0]}")/_convert.sh" hf mg "$@"
