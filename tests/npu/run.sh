#!/usr/bin/env bash
# Everything that is tested on the virtual NPU: hal's conformance suite and tests/npu. docs/virtual-npu.md says what
# that proves and what not.
#
#   bash tests/npu/run.sh [pytest arguments ...]        such as tests/npu/test_npu_refusals.py -k mask
#
# Makes .venv-npu and builds the virtual NPU where they are missing or out of date.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."

bash requirements/install.sh --accelerator npu-virtual --dev
# Processes share the cores as single-threaded ones; nothing may look for models or data on a network.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false WANDB_MODE=offline

# Without arguments: the suite that examines any device, and what is particular to this one.
(($#)) || set -- --pyargs hal.testing tests/npu --accelerator npu

echo "== pytest on the virtual NPU"
exec .venv-npu/bin/python -m hal.testing.virtual_npu run -- python -m pytest -n 2 --dist loadfile "$@"
