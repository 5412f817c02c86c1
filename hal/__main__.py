"""`python -m hal`: the devices of this machine, the kernels for each, and why not the others.

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
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from hal.accelerator import Accelerator
from hal.discovery import candidates, choose
from hal.errors import HalError
from hal.kernels.facts import KernelFacts
from hal.kernels.selection import Selection, select
from hal.launch import ray_start_arguments

_PACKAGES = ("torch", "torch-npu", "triton", "flash-attn", "transformer-engine", "liger-kernel")
"""Where kernels come from."""

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m hal", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accelerator", default="auto", help="a name from the table, or auto (default)")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument(
        "--dtype", choices=_DTYPES, default="bfloat16", help="of the model the kernels are for"
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
        dtype=_DTYPES[options.dtype],
        head_dim=options.head_dim,
        num_heads=32,
        num_kv_heads=8,
        hidden_size=32 * options.head_dim,
        vocab_size=151936,
        packed=options.packed,
    )
    kernels = select(accelerator, facts)
    if options.json:
        return json.dumps(_as_dict(accelerator, kernels), indent=2)
    return _tables(accelerator, kernels)


def _as_dict(accelerator: Accelerator, kernels: Selection) -> dict[str, Any]:
    return {
        "chosen": accelerator.name,
        "accelerators": [
            {
                "name": candidate.name,
                "usable": candidate.accelerator is not None,
                "reason": candidate.reason,
                "description": None if candidate.accelerator is None else candidate.accelerator.description(),
            }
            for candidate in candidates()
        ],
        "communication_backend": accelerator.communication_backend,
        "ray_resource": accelerator.ray_resource,
        "dtypes": {name: accelerator.supports_dtype(dtype) for name, dtype in _DTYPES.items()},
        "packages": _packages(),
        **kernels.as_dict(),
    }


def _tables(accelerator: Accelerator, kernels: Selection) -> str:
    free, total = accelerator.memory_info()
    facts = kernels.facts
    form = "dense and packed" if facts.packed else "dense"
    lines = ["accelerators"]
    found = candidates()
    width = max(len(candidate.name) for candidate in found) + 2
    for candidate in found:
        mark = "*" if candidate.name == accelerator.name else " "
        state = candidate.reason and f"no: {candidate.reason}"
        lines.append(
            f"{mark} {candidate.name:<{width}}{state or (candidate.accelerator and candidate.accelerator.description())}"
        )
    lines += [
        "",
        f"{accelerator.name}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, "
        f"communication {accelerator.communication_backend}, Ray resource {accelerator.ray_resource}",
        *(f"  {name}: {accelerator.supports_dtype(dtype) or 'yes'}" for name, dtype in _DTYPES.items()),
        "",
        f"kernels for {str(facts.dtype).removeprefix('torch.')}, heads of {facts.head_dim}, {form}",
        *("  " + line for line in kernels.table().splitlines()),
        "",
        "packages",
        *(f"  {name:<20}{found or 'not installed'}" for name, found in _packages().items()),
    ]
    return "\n".join(lines)


def _packages() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


if __name__ == "__main__":
    sys.exit(main())
