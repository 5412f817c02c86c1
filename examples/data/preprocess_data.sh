#!/usr/bin/env bash
# Preprocess a data set by the yaml of its name:
#
#   bash examples/data/preprocess_data.sh NAME [key=value ...] [--overwrite] [--json]
#
# NAME is a file in configs/datasets without its .yaml.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

names() { (cd configs/datasets && printf ' %s' *.yaml) | sed 's/\.yaml//g'; }

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

python=python3
if [[ -x .venv/bin/python ]]; then
  python=.venv/bin/python
fi
exec "${python}" -m mindrl preprocess "configs/datasets/${name}.yaml" "$@"
