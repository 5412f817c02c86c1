"""`mindrl doctor`: what this machine has, what is missing, and how to get it."""

import argparse
import ctypes
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from mindrl.cli.tried import tried_versions

SUMMARY = "show the device, its kernels, versions, and what is missing"
EXAMPLE = "mindrl doctor\nmindrl doctor --json"

SHARED_MEMORY_MB = 512
"""Ray's object store lives in /dev/shm."""
MEMORY_MB = 6000
"""The quick start: two workers, Ray and the driver."""
DISK_MB = 300
"""The quick start: 30 MB of files, and what Ray writes of itself and may spill of samples (its object store's size)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "note", "missing"]
    """`missing` keeps runs from starting; `note` costs something, or is good to know."""
    found: str
    remedy: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("--accelerator", default="auto", help="name of an accelerator, or auto (default)")
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    """0: nothing is missing; 1: something is."""
    device = _device(args.accelerator)
    tested = device["tested_set"]
    tried = tried_versions(tested["name"]) if tested else {}
    findings = [*_packages(tried), *_engines(tried), *_ray(), *_memory(), *_disk(), *_libraries()]
    if args.json:
        print(json.dumps({**device, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        print("\n\n".join([_device_text(device), _findings_text(findings)]))
    return int(any(finding.state == "missing" for finding in findings))


def _device(name: str) -> dict[str, Any]:
    """The chosen device, the others with the reason against them, kernels, and the rollout engine."""
    import torch

    import hal
    from hal.overview import better_kernels
    from hal.versions import nearest_set
    from mindrl.rollout.choose import vllm_unavailable_reason

    accelerator = hal.choose(name)
    tested = nearest_set(accelerator.device_type)
    # A common shape: the rows of a 7 B model. What a run chose for its own model is in its hal.txt.
    facts = hal.KernelFacts(
        dtype=torch.bfloat16,
        head_dim=128,
        num_heads=28,
        num_kv_heads=4,
        hidden_size=3584,
        vocab_size=152064,
        packed=False,
    )
    reason = vllm_unavailable_reason(accelerator)
    kernels = hal.select(accelerator, facts)
    return {
        "device": {"name": accelerator.name, "description": accelerator.description()},
        "unusable": {other.name: other.reason for other in hal.candidates() if other.reason},
        "rollout_engine": {"name": "hf" if reason else "vllm", "reason": reason},
        "tested_set": tested and {"name": tested.name, "tried": tested.tried},
        "better_kernels": better_kernels(kernels),
        **kernels.as_dict(),
    }


def _packages(tried: Mapping[str, str]) -> Iterator[Finding]:
    """Every package that setup.py asks for: whether what is installed lies in its range, and was tried."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires("mindrl") or ()]
    except PackageNotFoundError:
        yield Finding("mindrl", "missing", "not installed", "pip install --no-deps -e .  in the checkout")
        return
    yield Finding("mindrl", "ok", version("mindrl"))
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        remedy = f"pip install '{requirement}', or a whole tested set: bash requirements/install.sh"
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Finding(requirement.name, "missing", "not installed", remedy)
            continue
        if requirement.specifier.contains(found, prereleases=True):
            yield _beside(requirement.name, found, tried)
        else:
            yield Finding(requirement.name, "missing", f"{found}, outside {requirement.specifier}", remedy)


def _engines(tried: Mapping[str, str]) -> Iterator[Finding]:
    """vLLM in the forms that the set has; without it, rollout is slower."""
    for name in sorted(name for name in tried if name.startswith("vllm")):
        try:
            yield _beside(name, version(name), tried)
        except PackageNotFoundError:
            yield Finding(
                name,
                "note",
                f"not installed, {tried[name]} was tried; rollout goes through transformers, which is slower",
            )


def _beside(name: str, found: str, tried: Mapping[str, str]) -> Finding:
    """An installed version that is in range; a note where another one was tried."""
    # What follows + is the build, such as +cpu.
    if name not in tried or found.split("+")[0] == tried[name]:
        return Finding(name, "ok", found)
    return Finding(name, "note", f"{found}, untried; {tried[name]} was")


def _ray() -> Iterator[Finding]:
    """The cluster that `mindrl train` would join."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        yield Finding(
            "Ray cluster", "ok", "RAY_ADDRESS is not set: `mindrl train` starts its own and stops it"
        )
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        yield Finding(
            "Ray cluster", "ok", f"RAY_ADDRESS is {address}: `mindrl train` joins what Ray finds there"
        )
        return
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except OSError as error:
        remedy = "start the cluster, correct RAY_ADDRESS, or unset it"
        yield Finding("Ray cluster", "missing", f"nothing answers at RAY_ADDRESS {address}: {error}", remedy)
    else:
        yield Finding("Ray cluster", "ok", f"RAY_ADDRESS {address} answers")


def _memory() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    yield _room(
        "memory", memory.available, memory.total, MEMORY_MB, "NPUS_PER_NODE=1 needs about half as much"
    )
    if Path("/dev/shm").is_dir():
        shared = shutil.disk_usage("/dev/shm")
        remedy = "containers: start with --shm-size=2g; else: mount -o remount,size=2g /dev/shm"
        yield _room("/dev/shm", shared.free, shared.total, SHARED_MEMORY_MB, remedy)
    else:
        yield Finding("/dev/shm", "missing", "not there", "mount a tmpfs at /dev/shm")


def _disk() -> Iterator[Finding]:
    """Where runs are written by default, and where Ray keeps its session."""
    for name, place, use in (("disk", Path.cwd(), "outputs/"), ("disk, /tmp", Path("/tmp"), "Ray's session")):
        disk = shutil.disk_usage(place)
        remedy = f"{use} lies there; make room" + ("" if name != "disk" else ", or set trainer.output_dir")
        yield _room(name, disk.free, disk.total, DISK_MB, remedy)


def _room(name: str, free: int, total: int, needed_mb: int, remedy: str) -> Finding:
    found = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    if free >= needed_mb * 2**20:
        return Finding(name, "ok", found)
    return Finding(name, "note", f"{found}; the quick start uses about {needed_mb} MiB", remedy)


def _libraries() -> Iterator[Finding]:
    names = [name for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name]
    compiler = next((path for name in names if (path := shutil.which(name))), None)
    if compiler:
        yield Finding("C++ compiler", "ok", compiler)
    else:
        yield Finding("C++ compiler", "note", "none: compiled kernels can't be used", "apt-get install g++")
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        cost = "none: vLLM can't run on a CPU; rollout falls back to transformers"
        yield Finding("libnuma", "note", cost, "apt-get install libnuma1")
    else:
        yield Finding("libnuma", "ok", "libnuma.so.1")


def _device_text(device: dict[str, Any]) -> str:
    engine = device["rollout_engine"]
    lines = [f"device            {device['device']['name']}: {device['device']['description']}"]
    lines += [f"  not {name}: {reason}" for name, reason in device["unusable"].items()]
    lines.append(
        f"rollout engine    {engine['name']}" + (f": {engine['reason']}" if engine["reason"] else "")
    )
    facts = device["facts"]
    lines.append(f"kernels           for {facts['dtype']}, heads of {facts['head_dim']}")
    for op, kernel in device["kernels"].items():
        lines.append(f"  {op:<16}{kernel['provider']}")
        lines += [f"  {'':<16}  not {name}: {reason}" for name, reason in kernel["not"].items()]
    lines += [f"better kernel     {name}: {reason}" for name, reason in device["better_kernels"].items()]
    tested = device["tested_set"]
    lines.append(
        f"tested set        requirements/{tested['name']}.txt: {tested['tried']}"
        if tested
        else "tested set        none for this kind of device"
    )
    return "\n".join(lines)


def _findings_text(findings: list[Finding]) -> str:
    lines: list[str] = []
    for finding in findings:
        lines.append(f"{finding.state:<8}{finding.name:<18}{finding.found}")
        if finding.remedy:
            lines.append(f"{'':<26}-> {finding.remedy}")
    return "\n".join(lines)
