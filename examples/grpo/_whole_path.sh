# What the scripts share that do everything from a fresh clone: stages, one clean end, the path from weights to verdict.
# Sourced, from the checkout's root, by quickstart.sh and grpo_trainer_smollm2_135m.sh after they have set
#
#   name         what messages begin with
#   config       the run's configuration
#   run_dir      replaced by the script, and nothing else is
#   num_stages   how many times it will call `stage`
#
# and gone through check_arguments. SEED (0) and NPUS_PER_NODE (2) come from the environment.
# shellcheck shell=bash

: "${name:?}" "${config:?}" "${run_dir:?}" "${num_stages:?}"
seed=${SEED:-0}
export NPUS_PER_NODE=${NPUS_PER_NODE:-2} DEFAULT_YAML=$config

# check_arguments ARGUMENT...: only key=value, and none that leads the run elsewhere; they go into `overrides`.
check_arguments() {
  [[ $seed =~ ^[0-9]+$ ]] || { echo "$name: SEED is '$seed'; give a whole number" >&2; exit 2; }
  local argument
  for argument in "$@"; do
    case $argument in
      trainer.output_dir=*) echo "$name: it writes $run_dir only; train elsewhere with mindrl train" >&2; exit 2 ;;
      *=*) ;;
      *) echo "$name: '$argument' is not key=value, such as trainer.total_steps=20" >&2; exit 2 ;;
    esac
  done
  overrides=("trainer.seed=$seed" "data.seed=$seed" "$@")
}

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
  echo "$name: interrupted after $SECONDS s" >&2
  exit 130
}
trap interrupt INT TERM HUP

num_done=0
stage() {
  num_done=$((num_done + 1))
  echo "[$num_done/$num_stages, $SECONDS s] $1"
  run "${@:2}"
}

set_up() {
  stage "set-up" bash requirements/install.sh
  PATH=$PWD/.venv/bin:$PATH
  # One thread a process: what is fastest for matrices this small, and all that works on a busy machine.
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
}

# start_over: a misspelt key is found before the last run's results are deleted.
start_over() {
  run python examples/grpo/run_verdict.py check "$config" "cluster.devices_per_node=$NPUS_PER_NODE" "${overrides[@]}"
  rm -rf "$run_dir"
  mkdir -p "$run_dir"
}

weights_in() {
  stage "weights in: Hugging Face to Megatron" \
    mindrl convert --load-model-type hf --save-model-type mg --load-dir "$run_dir/model" --save-dir "$run_dir/mcore"
}

training() {
  stage "training with GRPO" bash examples/grpo/_launch.sh "${overrides[@]}"
}

weights_out() {
  stage "weights out: Megatron to Hugging Face" \
    mindrl convert --load-model-type mg --save-model-type hf --load-dir "$run_dir/checkpoints" --save-dir "$run_dir/hf"
}

# evaluation HOW FLAG...: both models on the prompts that training never saw, into the run's summary.
evaluation() {
  stage "evaluation: before and after, $1, on prompts that training never saw" \
    env PYTHONWARNINGS=ignore::FutureWarning TORCH_CPP_LOG_LEVEL=ERROR mindrl eval "$run_dir/model" "$run_dir/hf" \
    --dataset "$run_dir/data/heldout.parquet" --reward exact_match --output "$run_dir/eval.json" "${@:2}"
  run python examples/grpo/run_verdict.py merge "$run_dir"
}

# verdict KIND: the report, the table, and exit code 1 where a bar of that kind was missed.
verdict() {
  run mindrl report "$run_dir"
  run python examples/grpo/run_verdict.py judge "$run_dir" "$1"
}
