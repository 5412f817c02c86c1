"""What `python -m hal` shows: devices, kernels with reasons, versions, and what an installation would improve."""

from collections.abc import Mapping
from typing import Any

import torch

from hal.accelerator import Accelerator
from hal.discovery import candidates
from hal.kernels.provider import NotInstalled
from hal.kernels.registry import OPS, providers
from hal.kernels.selection import Selection
from hal.versions import KERNEL_SOURCES, Installed, TestedSet, compare, nearest_set

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def better_kernels(kernels: Selection) -> dict[str, str]:
    """By `op: provider`, the reason of each that would come before the chosen one if its package were installed."""
    found: dict[str, str] = {}
    for op, chosen in kernels.providers.items():
        names = [provider.name for provider in providers(op)]
        for name in names[: names.index(chosen)]:
            reason = kernels.reasons[op][name]
            if isinstance(reason, NotInstalled) and OPS[op].asked_for(kernels.facts):
                found[f"{op}: {name}"] = reason
    return found


def kernel_packages(device_type: str) -> tuple[TestedSet | None, list[Installed]]:
    """The set that comes nearest, and every package that kernels come from beside it."""
    tested = nearest_set(device_type)
    tried: Mapping[str, str] = {} if tested is None else tested.versions
    return tested, compare({name: tried.get(name) for name in (*KERNEL_SOURCES, *tried)})


def as_dict(accelerator: Accelerator, kernels: Selection) -> dict[str, Any]:
    """For machines."""
    tested, packages = kernel_packages(accelerator.device_type)
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
        "dtypes": {name: accelerator.supports_dtype(dtype) for name, dtype in DTYPES.items()},
        "tested_set": tested and {"name": tested.name, "tried": tested.tried},
        "packages": {each.name: {"installed": each.version, "tried": each.tried} for each in packages},
        "better_kernels": better_kernels(kernels),
        **kernels.as_dict(),
    }


def as_text(accelerator: Accelerator, kernels: Selection) -> str:
    """For people."""
    return "\n\n".join(
        [
            _devices(accelerator),
            _device(accelerator),
            _kernels(kernels),
            version_table(accelerator.device_type),
        ]
    )


def version_table(device_type: str) -> str:
    """Installed packages against the set that comes nearest."""
    tested, packages = kernel_packages(device_type)
    if tested is None:
        head = "versions (no set of packages was tried for this kind of device)"
    else:
        head = f"versions, beside those of requirements/{tested.name}.txt ({tested.tried})"
    return "\n".join([head, *version_lines(packages)])


def version_lines(packages: list[Installed]) -> list[str]:
    """One line a package: name, version, how that compares."""
    name, found = (max(map(len, column), default=0) for column in zip(*map(_columns, packages), strict=False))
    return [
        f"  {each.name:<{name}}  {each.version or 'not installed':<{found}}  {each.verdict or ''}".rstrip()
        for each in packages
    ]


def _columns(package: Installed) -> tuple[str, str]:
    return package.name, package.version or "not installed"


def _devices(accelerator: Accelerator) -> str:
    found = candidates()
    width = max(len(candidate.name) for candidate in found) + 2
    lines = ["accelerators"]
    for candidate in found:
        mark = "*" if candidate.name == accelerator.name else " "
        state = candidate.reason and f"no: {candidate.reason}"
        lines.append(
            f"{mark} {candidate.name:<{width}}{state or (candidate.accelerator and candidate.accelerator.description())}"
        )
    return "\n".join(lines)


def _device(accelerator: Accelerator) -> str:
    free, total = accelerator.memory_info()
    return "\n".join(
        [
            f"{accelerator.name}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, "
            f"communication {accelerator.communication_backend}, Ray resource {accelerator.ray_resource}",
            *(f"  {name}: {accelerator.supports_dtype(dtype) or 'yes'}" for name, dtype in DTYPES.items()),
        ]
    )


def _kernels(kernels: Selection) -> str:
    facts = kernels.facts
    form = "dense and packed" if facts.packed else "dense"
    better = better_kernels(kernels)
    return "\n".join(
        [
            f"kernels for {str(facts.dtype).removeprefix('torch.')}, heads of {facts.head_dim}, {form}",
            *("  " + line for line in kernels.table().splitlines()),
            "",
            "better kernels"
            if better
            else "better kernels: no package that is not installed would give one here",
            *(f"  {name}: {reason}" for name, reason in better.items()),
        ]
    )
