"""What an installed torch_npu asks of libraries that this machine lacks. Nothing of it is imported."""

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from hal.errors import UnavailableError

SUPPORTED = ("2.10.0.post4", "2.13.0")
"""Versions of torch_npu whose needs the simulated runtime was written for."""

_INSTALL = (
    "install them by `bash requirements/install.sh --accelerator npu-virtual` and use .venv-npu's Python"
)


@dataclass(frozen=True, slots=True)
class Wheel:
    """An installed torch_npu, and the torch it belongs to."""

    site: Path
    """Folder that holds both packages."""
    torch_version: str
    version: str


@dataclass(frozen=True, slots=True)
class Needs:
    """What the stand-ins have to offer."""

    libraries: tuple[str, ...]
    """Names of shared libraries that nothing here provides."""
    functions: tuple[str, ...]
    """Names of what those libraries define."""


def find_wheel() -> Wheel:
    """The torch_npu of this interpreter; `UnavailableError` if there is none, or one that is not known."""
    found: dict[str, str] = {}
    for package in ("torch", "torch_npu"):
        try:
            found[package] = version(package)
        except PackageNotFoundError as error:
            raise UnavailableError(
                f"the virtual NPU needs torch and torch_npu, and {package} is not installed; {_INSTALL}"
            ) from error
    if found["torch_npu"] not in SUPPORTED:
        raise UnavailableError(
            f"the virtual NPU was written for torch_npu {' and '.join(SUPPORTED)}, and {found['torch_npu']} is installed; "
            f"{_INSTALL}"
        )
    # By the interpreter's search path and not by import, which fails before there are stand-ins.
    site = _site_of("torch_npu")
    return Wheel(site, found["torch"], found["torch_npu"])


def _site_of(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UnavailableError(f"the package {package} is installed but has no files; {_INSTALL}")
    return Path(spec.submodule_search_locations[0]).parent


def needs_of(wheel: Wheel) -> Needs:
    """Libraries and symbols that torch_npu's binaries name and neither torch, themselves nor this system have."""
    own = sorted((wheel.site / "torch_npu").glob("*.so")) + sorted(
        (wheel.site / "torch_npu/lib").glob("*.so")
    )
    torchs = sorted((wheel.site / "torch/lib").glob("*.so*"))
    present = {path.name for path in (*own, *torchs)} | _system_libraries()
    libraries = sorted({name for path in own for name in _needed(path)} - present)
    defined = {name for path in (*own, *torchs) for name in _defined(path)}
    missing = {
        symbol: kind for path in own for symbol, kind in _undefined(path).items() if symbol not in defined
    }
    data = sorted(symbol for symbol, kind in missing.items() if kind in ("OBJECT", "TLS"))
    if data:
        raise UnavailableError(
            f"the virtual NPU stands in for functions, and torch_npu {wheel.version} asks for data too: {', '.join(data)}"
        )
    return Needs(tuple(libraries), tuple(sorted(missing)))


def _output(*command: str) -> Iterable[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def _system_libraries() -> set[str]:
    lines = _output("/sbin/ldconfig", "-p")
    return {line.split()[0] for line in lines if "=>" in line}


def _needed(library: Path) -> list[str]:
    return re.findall(r"\(NEEDED\).*\[(.+)\]", "\n".join(_output("readelf", "-dW", str(library))))


def _defined(library: Path) -> list[str]:
    lines = _output("nm", "--dynamic", "--defined-only", str(library))
    return [line.split()[-1].split("@")[0] for line in lines if line]


def _undefined(library: Path) -> dict[str, str]:
    """Symbols that must come from elsewhere, and their kinds: FUNC, OBJECT, ...

    Less those of the C and C++ runtimes, which carry a version, and Python's."""
    symbols: dict[str, str] = {}
    for line in _output("readelf", "--dyn-syms", "-W", str(library)):
        words = line.split()
        if len(words) < 8 or words[6] != "UND" or words[4] != "GLOBAL":
            continue
        kind, name = words[3], words[7]
        if "@" not in name and not re.match(r"_?Py", name):
            symbols[name] = kind
    return symbols
