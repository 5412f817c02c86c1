#!/usr/bin/env bash
# Moonlight from a Megatron checkpoint to a Hugging Face directory; _convert.sh says what the variables mean.
#
#   LOAD_DIR=... SAVE_DIR=... bash examples/ckpt/ckpt_convert_moonlight_mcore2hf.sh [flags of mindrl convert]
set -euo pipefail

export LOAD_DIR=${LOAD_DIR:-ckpt/mcore/Moonlight-16B-A3B-Instruct}
export SAVE_DIR=${SAVE_DIR:-models/Moonlight-16B-A3B-Instruct-trained}
exec bash "$(dirname "${BASH_SOURCE[0]}")/_convert.sh" mg hf "$@"
