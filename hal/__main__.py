"""`python -m hal`: the devices of this machine, the kernels, why not the others, and versions beside those tried.

    python -m hal                                 tables
    python -m hal --json                          the same for machines
    python -m hal --accelerator npu --dtype float16 --packed
    python -m hal launch-args --devices 8         arguments of `ray start` on this node, one a line

Exit codes: 0 done, 1 failed, 2 a request that can't be served.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from hal.discovery import choose
from hal.errors import HalError
from hal.kernels.facts import KernelFacts
from hal.kernels.selection import select
from hal.launch import ray_start_arguments
from hal.overview import DTYPES, as_dict, as_text


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m hal", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accelerator", default="auto", help="a name from the table, or auto (default)")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="bfloat16", help="of the model the kernels are for"
    )
    parser.add_argument("--head-dim", type=int, default=128, help="of the model the kernels are for")
    parser.add_argument("--packed", action="store_true", help="kernels for packed sequences too")
    commands = parser.add_subparsers(dest="command", metavar="launch-args")
    launch = commands.add_parser("launch-args", help="arguments of `ray start` on this node")
    launch.add_argument("--devices", type=int, required=True, help="devices of this node that take part")
    # SUPPRESS: a default here would overrule what was said before the command.
    launch.add_argument(
        "--accelerator", default=argparse.SUPPRESS, help="a name from the table, or auto (default)"
    )
    launch.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="as one object")
    options = parser.parse_args(arguments)
    try:
        text = _launch(options) if options.command == "launch-args" else _overview(options)
    except HalError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        print(text, flush=True)
    except OSError as error:  # a reader that has gone, a full disk
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # or Python would complain once more at its exit
        os.close(nowhere)
        gone = isinstance(error, BrokenPipeError)
        reason = "whoever read the output has gone" if gone else error.strerror
        print(f"python -m hal: {reason}", file=sys.stderr)
        return 1
    return 0


def _launch(options: argparse.Namespace) -> str:
    accelerator = choose(options.accelerator)
    ray_arguments = ray_start_arguments(accelerator, options.devices)
    if not options.json:
        return "\n".join(ray_arguments)
    return json.dumps(
        {
            "accelerator": accelerator.name,
            "resource": accelerator.ray_resource,
            "devices": options.devices,
            "arguments": ray_arguments,
        }
    )


def _overview(options: argparse.Namespace) -> str:
    accelerator = choose(options.accelerator)
    facts = KernelFacts(
        dtype=DTYPES[options.dtype],
        head_dim=options.head_dim,
        num_heads=32,
        num_kv_heads=8,
        hidden_size=32 * options.head_dim,
        vocab_size=151936,
        packed=options.packed,
    )
    kernels = select(accelerator, facts)
    if options.json:
        return json.dumps(as_dict(accelerator, kernels), indent=2)
    return as_text(accelerator, kernels)


if __name__ == "__main__":
    sys.exit(main())
