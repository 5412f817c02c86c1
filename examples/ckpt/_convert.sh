#!/usr/bin/env bash
# The common part of the ckpt_convert_* scripts. Arguments: hf mg, or mg hf, and then flags of `mindrl convert`.
#
# LOAD_DIR       hf: Hugging Face directory (config.json, tokenizer files, safetensors)
#                mg: checkpoint directory (its latest checkpoint is taken), or one iteration's directory in it
# SAVE_DIR       new directory (or an earlier result to replace, with --overwrite); a Hugging Face directory that is there
#                is kept and gets the result in SAVE_DIR/mg2hg
# PARAMS_DTYPE   type of the weights: bf16, fp32 or fp16 (to a checkpoint: bf16; back: as they are)
# MTP            keep or drop: the layers for multi-token prediction, to be said where the model has any
# NNODES         hosts that share the work (1); all of them see both directories, and run the same command with
# NODE_RANK      the number of this one, from 0; whichever ends last completes the result
set -euo pipefail

command -v mindrl >/dev/null || PATH=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.venv/bin:$PATH

from=$1 to=$2
shift 2
[[ $from == mg ]] || PARAMS_DTYPE=${PARAMS_DTYPE:-bf16}

flags=()
[[ -z ${PARAMS_DTYPE:-} ]] || flags+=(--params-dtype "$PARAMS_DTYPE")
[[ -z ${MTP:-} ]] || flags+=(--mtp "$MTP")
if [[ ${NNODES:-1} != 1 ]]; then
  [[ -n ${NODE_RANK:-} ]] || {
    echo "NNODES is $NNODES: give this host's number as NODE_RANK, from 0 to NNODES - 1" >&2
    exit 2
  }
  flags+=(--num-shards "$NNODES" --shard-index "$NODE_RANK")
fi

exec mindrl convert \
  --use-mcore-models \
  --model-type GPT \
  --load-model-type "$from" \
  --save-model-type "$to" \
  --load-dir "$LOAD_DIR" \
  --save-dir "$SAVE_DIR" \
  "${flags[@]}" \
  "$@"
