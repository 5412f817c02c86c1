#!/usr/bin/env bash
# Set-up, every gate, every test.
#
#   bash tests/run.sh [pytest arguments ...]        such as tests/config -k composition
#
# Without arguments, tests/npu/run.sh follows: what runs on the virtual NPU, in an environment of its own.
# MINDRL_TEST_DATA names a folder with data/ and tokenizers/ for the tests that want real ones; they skip without it.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash requirements/install.sh --dev
PATH=$PWD/.venv/bin:$PATH
# Processes share the cores as single-threaded ones; nothing may look for models or data on a network.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false WANDB_MODE=offline

failed=()
gate() {
  echo "== $*"
  "$@" || failed+=("$*")
}

mapfile -t scripts < <(git ls-files '*.sh' .ci/run 2>/dev/null || find .ci examples requirements tests -name '*.sh' -o -path .ci/run)
gate ruff check .
gate ruff format --check .
gate shellcheck "${scripts[@]}"
gate pyright
gate lint-imports
if ((${#failed[@]})); then
  printf 'gate failed: %s\n' "${failed[@]}" >&2
  exit 1
fi

echo "== pytest"
# Files stay whole, because tests of one file share what is costly to make.
status=0
pytest -n 2 --dist loadfile "$@" || status=$?
(($#)) || bash tests/npu/run.sh || status=$?
exit "$status"
