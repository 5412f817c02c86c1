"""`mindrl train`: run GRPO."""

import argparse
import json
import signal
import sys
from pathlib import Path

from mindrl.errors import RequestError

SUMMARY = "train a model with GRPO"
EXAMPLE = "mindrl train configs/grpo_quickstart.yaml trainer.total_steps=20 trainer.output_dir=outputs/short"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="yaml file (docs/configuration.md)")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="replace a value of the yaml, such as actor.optimizer.lr=1e-6",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the run that trainer.output_dir already holds"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in trainer.output_dir from its latest complete checkpoint",
    )
    parser.add_argument("--check", action="store_true", help="only look whether the run could start")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Exit code."""
    if args.resume and args.overwrite:
        raise RequestError("--resume continues the run that --overwrite would replace; give one of them")
    # Let SIGTERM unwind the run as Ctrl-C does, so that nothing of it stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from mindrl.cluster.authentication import use_a_token_of_our_own
    from mindrl.config import load
    from mindrl.trainer.paper_checks import check_on_paper

    config = load(args.config, args.overrides)
    check_on_paper(config)
    use_a_token_of_our_own()
    # This takes torch, which a mistake in the yaml need not wait for.
    from mindrl.trainer.preflight import check_request

    for notice in check_request(config, overwrite=args.overwrite, resume=args.resume):
        print(notice, file=sys.stderr)
    if args.check:
        return 0
    from mindrl.trainer.run import train

    summary = train(config, resume=args.resume)
    if args.json:
        print(json.dumps(summary))
    else:
        for name, value in summary.items():
            print(f"{name:18} {value:.6g}" if isinstance(value, float) else f"{name:18} {value}")
    return 0
