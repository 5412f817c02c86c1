#!/usr/bin/env bash
# GRPO on Qwen3-8B; the same command on every node. _launch.sh says what it takes from the environment.
#
#   NNODES=1 bash examples/grpo/grpo_trainer_qwen3_8b.sh [YAML] [key=value ...] [--overwrite]
set -euo pipefail

export DEFAULT_YAML=${DEFAULT_YAML:-configs/grpo_qwen3_8b.yaml}
exec bash "$(dirname "${BASH_SOURCE[0]}")/_launch.sh" "$@"
