#!/usr/bin/env bash
# GRPO on Qwen2.5-32B; the same command on every node. _launch.sh says what it takes from the environment.
#
#   NNODES=2 MASTER_ADDR=10.0.0.1 bash examples/grpo/grpo_trainer_qwen25_32b.sh [YAML] [key=value ...] [--overwrite]
set -euo pipefail

export DEFAULT_YAML=${DEFAULT_YAML:-configs/grpo_qwen25_32b.yaml}
exec bash "$(dirname "${BASH_SOURCE[0]}")/_launch.sh" "$@"
