"""`mindrl eval`: how well models answer a data set."""

import argparse
import json
import sys
from pathlib import Path

from mindrl.errors import RequestError

SUMMARY = "evaluate Hugging Face models on a data set: pass@k, avg@k, length"
EXAMPLE = """
mindrl eval outputs/model --dataset data/gsm8k_test.parquet --reward boxed_math
mindrl eval before/ after/ --dataset eval.parquet --reward boxed_math --n-samples 8 --temperature 1 --output eval.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add = parser.add_argument
    add("models", nargs="+", type=Path, metavar="HF_DIR", help="models; the same prompts go to each")
    add("--dataset", type=Path, required=True, metavar="FILE", help=".parquet that `mindrl preprocess` wrote")
    add(
        "--reward",
        action="append",
        required=True,
        metavar="NAME",
        help="reward function; may be given several times, scores add up",
    )
    add("--n-samples", type=int, default=1, metavar="N", help="responses per prompt (default: 1)")
    add("--temperature", type=float, default=0.0, help="0 is greedy decoding (default)")
    add(
        "--max-response-length",
        type=int,
        metavar="TOKENS",
        help="default: what the model's context leaves, at most 1024",
    )
    add("--limit", type=int, metavar="N", help="only the first N prompts")
    add("--correct-at", type=float, default=1.0, metavar="SCORE", help="score of a right answer (default: 1)")
    add("--seed", type=int, default=0)
    add("--engine", choices=("auto", "vllm", "hf"), default="auto", help="default: vLLM where it can run")
    add(
        "--accelerator", default="auto", metavar="NAME", help="one that `python -m hal` lists (default: auto)"
    )
    add("--reward-timeout", type=float, default=10.0, metavar="SECONDS", help="per response (default: 10)")
    add("--output", type=Path, metavar="FILE", help="write figures and answers there as JSON")
    add("--overwrite", action="store_true", help="replace the output if it is there")
    add("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Exit code."""
    _check_numbers(args)
    if args.output and args.output.exists() and not args.overwrite:
        raise RequestError(
            f"--output {args.output} exists; name another file, or give --overwrite to replace it"
        )
    from mindrl.evaluation.report_file import as_json, write
    from mindrl.evaluation.request import EvaluationRequest
    from mindrl.evaluation.standalone import evaluate_models

    request = EvaluationRequest(
        models=tuple(args.models),
        dataset=args.dataset,
        rewards=tuple(args.reward),
        engine=args.engine,
        n_samples=args.n_samples,
        temperature=args.temperature,
        max_response_length=args.max_response_length,
        limit=args.limit,
        correct_at=args.correct_at,
        seed=args.seed,
        accelerator=args.accelerator,
        reward_timeout_seconds=args.reward_timeout,
    )
    evaluations = evaluate_models(request, on_notice=lambda text: print(text, file=sys.stderr))
    if args.output:
        write(args.output, as_json(request, evaluations))
    if args.json:
        figures = {str(e.model): e.evaluation.result.metrics() for e in evaluations}
        print(json.dumps(figures))
        return 0
    for e in evaluations:
        print(f"{e.model} ({e.engine}, {e.evaluation.result.overall.num_prompts} prompts, {e.seconds:.1f} s)")
        for name, value in e.evaluation.result.metrics().items():
            print(f"  {name.removeprefix('eval/'):40} {value:.4g}")
    return 0


def _check_numbers(args: argparse.Namespace) -> None:
    """`RequestError` for counts below one and times or temperatures below zero."""
    for name in ("n_samples", "max_response_length", "limit"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise RequestError(f"--{name.replace('_', '-')} {value} was asked for; it must be at least 1")
    if args.temperature < 0 or args.reward_timeout <= 0:
        raise RequestError("--temperature must be at least 0 and --reward-timeout above 0")
