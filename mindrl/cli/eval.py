"""`mindrl eval`: how well models answer a data set."""

import argparse
import json
import math
import sys
from pathlib import Path

from mindrl.errors import RequestError
from mindrl.files import require_place_for

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
    if args.output:
        _check_output(args)
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
    """`RequestError` for numbers that mean nothing."""
    for name in ("n_samples", "max_response_length", "limit"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise RequestError(f"--{name.replace('_', '-')} {value} was asked for; it must be at least 1")
    if not 0 <= args.temperature <= 2:
        raise RequestError(f"--temperature {args.temperature} was asked for; it must lie between 0 and 2")
    if not args.reward_timeout > 0:
        raise RequestError(f"--reward-timeout {args.reward_timeout} was asked for; it must be above 0")
    if not math.isfinite(args.correct_at):
        raise RequestError(f"--correct-at {args.correct_at} was asked for; it must be a number")
    if args.seed < 0:
        raise RequestError(f"--seed {args.seed} was asked for; it must be at least 0")


def _check_output(args: argparse.Namespace) -> None:
    """`RequestError` where the figures could not be written, or would replace what they are about."""
    output: Path = args.output
    require_place_for(output, "--output")
    if output.is_dir():
        raise RequestError(f"--output {output} is a directory; name a file")
    if output.resolve() in (args.dataset.resolve(), args.dataset.with_suffix(".json").resolve()):
        raise RequestError(f"--output {output} is the data set; name another file")
    if output.exists() and not args.overwrite:
        raise RequestError(f"--output {output} exists; name another file, or give --overwrite to replace it")
