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
config=configs/grpo_quickstart.yaml
run_dir=outputs/quickstart
seed=${SEED:-0}
export NPUS_PER_NODE=${NPUS_PER_NODE:-2} DEFAULT_YAML=$config

[[ $seed =~ ^[0-9]+$ ]] || { echo "quickstart: SEED is '$seed'; give a whole number" >&2; exit 2; }
for argument in "$@"; do
  case $argument in
    trainer.output_dir=*) echo "quickstart: it writes $run_dir only; train elsewhere with mindrl train" >&2; exit 2 ;;
    *=*) ;;
    *) echo "quickstart: '$argument' is not key=value, such as trainer.total_steps=20" >&2; exit 2 ;;
  esac
done

# run COMMAND...: in a session of its own, so that a Ctrl-C reaches it through us, once. Should this script be killed
# outright, the kernel ends the command.
child=""
run() {
  local tie=()
  command -v setpriv >/dev/null && tie=(setpriv --pdeathsig TERM)
  "${tie[@]}" setsid env --default-signal=INT,TERM "$@" &
  child=$!
  local status=0
  wait "$child" || status=$?
  child=""
  case $status in 0 | 1 | 2 | 130) ;; *) status=1 ;; esac # a program that was killed has failed
  return "$status"
}

interrupt() {
  trap '' INT TERM HUP
  if [[ -n $child ]]; then
    kill -s INT -- "-$child" 2>/dev/null || true
    local tenths
    for ((tenths = 0; tenths < 95; tenths++)); do
      kill -0 "$child" 2>/dev/null || break
      sleep 0.1
    done
    kill -s KILL -- "-$child" 2>/dev/null || true
  fi
  echo "quickstart: interrupted after $SECONDS s" >&2
  exit 130
}
trap interrupt INT TERM HUP

num_stages=8
num_done=0
stage() {
  num_done=$((num_done + 1))
  echo "[$num_done/$num_stages, $SECONDS s] $1"
  run "${@:2}"
}

stage "set-up" bash requirements/install.sh
PATH=$PWD/.venv/bin:$PATH
# One thread a process is fastest for matrices this small, and the only thing that works on a busy machine.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

overrides=("trainer.seed=$seed" "data.seed=$seed" "$@")
# A misspelt key is found before the last run's results are deleted.
run python examples/grpo/quickstart_summary.py check "$config" "cluster.devices_per_node=$NPUS_PER_NODE" "${overrides[@]}"
rm -rf "$run_dir"
mkdir -p "$run_dir"

stage "data: sorting four digits" \
  python examples/data/make_sort_digits.py --output-dir "$run_dir/data" --seed "$seed"
stage "model: 0.6 M parameters, warmed up until it barely sorts" \
  python examples/data/make_tiny_model.py --data "$run_dir/data/train.jsonl" --output-dir "$run_dir/model" --seed "$seed"
stage "prompts" mindrl preprocess configs/datasets/sort_digits.yaml
run mindrl preprocess configs/datasets/sort_digits_heldout.yaml
stage "weights in: Hugging Face to Megatron" \
  mindrl convert --load-model-type hf --save-model-type mg --load-dir "$run_dir/model" --save-dir "$run_dir/mcore"
stage "training with GRPO" bash examples/grpo/_launch.sh "${overrides[@]}"
stage "weights out: Megatron to Hugging Face" \
  mindrl convert --load-model-type mg --save-model-type hf --load-dir "$run_dir/checkpoints" --save-dir "$run_dir/hf"
stage "evaluation: before and after, greedy, on prompts that training never saw" \
  env PYTHONWARNINGS=ignore::FutureWarning TORCH_CPP_LOG_LEVEL=ERROR mindrl eval "$run_dir/model" "$run_dir/hf" --dataset "$run_dir/data/heldout.parquet" --reward exact_match \
  --output "$run_dir/eval.json"
run python examples/grpo/quickstart_summary.py merge "$run_dir"
run mindrl report "$run_dir"
run python examples/grpo/quickstart_summary.py judge "$run_dir"
