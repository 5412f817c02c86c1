"""The sets of packages that were tried together, as far as torch and the sources of kernels go.

requirements/<name>.txt installs a set whole; a test keeps the numbers here equal to those there. docs/compatibility.md
says how far each was tried.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True, slots=True)
class TestedSet:
    """One set."""

    __test__ = False  # not for pytest

    name: str
    """As in requirements/<name>.txt."""
    device_type: str
    tried: str
    """How far, in a few words."""
    versions: Mapping[str, str]
    """By the name that pip uses."""


SETS = (
    TestedSet("cpu", "cpu", "every test, whole runs", {"torch": "2.13.0"}),
    TestedSet("cuda", "cuda", "resolved, not run", {"torch": "2.13.0"}),
    TestedSet(
        "npu-production",
        "npu",
        "names and signatures only, nothing run",
        {"torch": "2.10.0", "torch-npu": "2.10.0.post4", "triton-ascend": "3.2.2"},
    ),
    TestedSet(
        "npu-virtual",
        "npu",
        "every test of Ascend and whole runs, on a simulated device: no Ascend numerics, no speed",
        {"torch": "2.13.0", "torch-npu": "2.13.0"},
    ),
)

KERNEL_SOURCES = (
    "torch",
    "torch-npu",
    "triton",
    "triton-ascend",
    "flash-attn",
    "transformer-engine",
    "liger-kernel",
)
"""Packages that kernels come from, in sets or beside them."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A package here, beside what was tried."""

    name: str
    version: str | None
    """None: not installed."""
    tried: str | None
    """The version in the set; None where the set does not have the package."""

    @property
    def verdict(self) -> str | None:
        """In words: as tried, or how it differs; None where there is nothing to compare."""
        if self.tried is None:
            return None
        if self.version is None:
            return f"{self.tried} was tried"
        # What follows + is the build, such as +cpu; the set's index offers its own.
        return "as tried" if self.version.split("+")[0] == self.tried else f"untried; {self.tried} was"


def installed_version(name: str) -> str | None:
    """By the package's metadata; it is not imported."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def nearest_set(device_type: str) -> TestedSet | None:
    """The set for this kind of device of which most packages are installed as they were tried; None: there is none."""
    candidates = [each for each in SETS if each.device_type == device_type]
    return max(candidates, key=_num_as_tried, default=None)


def compare(names: Mapping[str, str | None]) -> list[Installed]:
    """What is installed of the named packages, beside the versions given."""
    return [Installed(name, installed_version(name), tried) for name, tried in names.items()]


def _num_as_tried(tested: TestedSet) -> int:
    return sum(each.verdict == "as tried" for each in compare(tested.versions))
