#!/usr/bin/env bash
# DeepSeek-V3 from Hugging Face to a Megatron checkpoint; _convert.sh says what the variables mean.
# The weights may be FP8, as published: they become bfloat16 on the way, without a copy in between. The model has a layer
# for multi-token prediction, so MTP has to say keep or drop.
#
#   MTP=drop LOAD_DIR=... SAVE_DIR=... bash examples/ckpt/ckpt_convert_deepseek_v3_hf2mcore.sh [flags of mindrl convert]
set -euo pipefail

export LOAD_DIR=${LOAD_DIR:-models/DeepSeek-V3}
export SAVE_DIR=${SAVE_DIR:-ckpt/mcore/DeepSeek-V3}
exec bash "$(dirname "${BASH_SOURCE[0]}")/_convert.sh" hf mg "$@"
