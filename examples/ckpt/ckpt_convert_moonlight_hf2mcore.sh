#!/usr/bin/env bash
# Moonlight from Hugging Face to a Megatron checkpoint; _convert.sh says what the variables mean.
#
#   LOAD_DIR=... SAVE_DIR=... bash examples/ckpt/ckpt_convert_moonlight_hf2mcore.sh [flags of mindrl convert]
set -euo pipefail

export LOAD_DIR=${LOAD_DIR:-models/Moonlight-16B-A3B-Instruct}
export SAVE_DIR=${SAVE_DIR:-ckpt/mcore/Moonlight-16B-A3B-Instruct}
exec bash "$(dirname "${BASH_SOURCE[0]}")/_convert.sh" hf mg "$@"
