"""`mindrl plan`: who sits where and the batch arithmetic of a run, before anything starts."""

import argparse
import json
from pathlib import Path

SUMMARY = "show ranks, parameters and batch arithmetic of a run; starts nothing and needs no weights"
EXAMPLE = """\
mindrl plan configs/grpo_quickstart.yaml
mindrl plan configs/grpo_qwen25_7b.yaml actor.tensor_model_parallel_size=4"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="yaml file (docs/configuration.md)")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="replace a value of the yaml, such as actor.tensor_model_parallel_size=4",
    )
    parser.add_argument("--all", action="store_true", help="show every rank of a large run")
    parser.add_argument("--json", action="store_true", help="for machines; every rank")


def run(args: argparse.Namespace) -> int:
    """Exit code."""
    from mindrl.config import load
    from mindrl.planning.plan import make_plan
    from mindrl.planning.plan_text import plan_text

    plan = make_plan(load(args.config, args.overrides))
    print(json.dumps(plan.as_dict(), indent=2) if args.json else plan_text(plan, all_ranks=args.all))
    return 0
