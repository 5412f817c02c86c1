#!/usr/bin/env bash
# Preprocess a data set by the yaml of its name:
#
#   bash examples/data/preprocess_data.sh NAME [key=value ...] [--overwrite] [--json]
#
# NAME is a file in configs/datasets without its .yaml. Environment, each the yaml's own value when unset:
#
#   DATA         a file, a folder, or hf://datasets/OWNER/NAME (input)
#   TOKENIZER    the model's directory (tokenizer_name_or_path)
#   OUTPUT       where to, without .parquet (output_prefix)
#   PROMPT_TYPE  a template of configs/model/templates.json, or chat (prompt_type)
#   SEQ_LENGTH   tokens a prompt may have (seq_length)
#   WORKERS      processes; the number of cores when unset
#
# A key=value on the command line wins.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

names() { (cd configs/datasets && printf ' %s' [!_]*.yaml) | sed 's/\.yaml//g'; }

if [[ $# -lt 1 || "$1" == -* ]]; then
  echo "usage: bash examples/data/preprocess_data.sh NAME [key=value ...] [--overwrite]; NAME is one of:$(names)" >&2
  exit 2
fi
name="$1"
shift
if [[ ! -f "configs/datasets/${name}.yaml" ]]; then
  echo "preprocess_data.sh: no configs/datasets/${name}.yaml; there are:$(names)" >&2
  exit 2
fi

overrides=("workers=${WORKERS:-$(nproc)}")
[[ -n "${DATA:-}" ]] && overrides+=("input=${DATA}")
[[ -n "${TOKENIZER:-}" ]] && overrides+=("tokenizer_name_or_path=${TOKENIZER}")
[[ -n "${OUTPUT:-}" ]] && overrides+=("output_prefix=${OUTPUT}")
[[ -n "${PROMPT_TYPE:-}" ]] && overrides+=("prompt_type=${PROMPT_TYPE}")
[[ -n "${SEQ_LENGTH:-}" ]] && overrides+=("seq_length=${SEQ_LENGTH}")

python=python3
if [[ -x .venv/bin/python ]]; then
  python=.venv/bin/python
fi
exec "${python}" -m mindrl preprocess "configs/datasets/${name}.yaml" "${overrides[@]}" "$@"
