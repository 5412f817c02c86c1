#!/usr/bin/env bash
# The whole path on a tiny model, on this machine's device: set-up, data, model, conversion, GRPO, conversion back,
# evaluation, report. Nothing has to be there but Python 3.11.
#
#   bash examples/grpo/quickstart.sh [key=value ...]        such as actor.optimizer.lr=0, for a run that must not learn
#   SEED=1 bash examples/grpo/quickstart.sh                 another seed of data, model and training (0)
#   NPUS_PER_NODE=1 bash examples/grpo/quickstart.sh        worker processes (2)
#
# Replaces outputs/quickstart and nothing else. Exit codes: 0 done and learned, 1 failed or did not learn, 2 a request
# or machine that can't be served, 130 interrupted.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
name=quickstart
config=configs/grpo_quickstart.yaml
run_dir=outputs/quickstart
num_stages=8
# shellcheck source=examples/grpo/_whole_path.sh
source examples/grpo/_whole_path.sh
check_arguments "$@"

set_up
start_over
stage "data: sorting four digits" \
  python examples/data/make_sort_digits.py --output-dir "$run_dir/data" --seed "$seed"
stage "model: 0.6 M parameters, warmed up until it barely sorts" \
  python examples/data/make_tiny_model.py --data "$run_dir/data/train.jsonl" --output-dir "$run_dir/model" --seed "$seed"
stage "prompts" mindrl preprocess configs/datasets/sort_digits.yaml
run mindrl preprocess configs/datasets/sort_digits_heldout.yaml
weights_in
training
weights_out
evaluation "greedy"
verdict sorting
