"""`mindrl plan`: who sits where, the batch arithmetic and the memory of a run, before anything starts."""

import argparse
import json
from pathlib import Path

SUMMARY = "show ranks, parameters, batch arithmetic and memory of a run; starts nothing and needs no weights"
EXAMPLE = """\
mindrl plan configs/grpo_quickstart.yaml
mindrl plan configs/grpo_qwen25_7b.yaml --device-memory 64 actor.tensor_model_parallel_size=4"""


GIB = 1 << 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="yaml file (docs/configuration.md)")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="replace a value of the yaml, such as actor.tensor_model_parallel_size=4",
    )
    parser.add_argument(
        "--device-memory",
        type=_gib,
        metavar="GIB",
        help="memory of one device: says whether the run fits and which keys to change; exit code 1 if it does not",
    )
    parser.add_argument("--all", action="store_true", help="show every rank of a large run")
    parser.add_argument("--json", action="store_true", help="for machines; every rank, sizes in bytes")


def run(args: argparse.Namespace) -> int:
    """0: the run can be laid out and fits, as far as is known; 1: it does not fit into `--device-memory`."""
    from mindrl.config import load
    from mindrl.planning.plan import make_plan
    from mindrl.planning.plan_text import plan_text

    plan = make_plan(load(args.config, args.overrides), args.device_memory)
    print(json.dumps(plan.as_dict(), indent=2) if args.json else plan_text(plan, all_ranks=args.all))
    return int(plan.fits is False)


def _gib(text: str) -> int:
    """Bytes."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no size of a device in GiB")
    return int(value * GIB)
