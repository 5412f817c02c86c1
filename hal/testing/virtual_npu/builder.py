"""Builds the stand-ins for CANN's libraries and the simulator, into a folder named by what they are made of."""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from hal.errors import UnavailableError
from hal.testing.virtual_npu.wheel import Needs, Wheel, find_wheel, needs_of

HERE = Path(__file__).parent
RUNTIME = "libvirtual_npu.so"
SIMULATOR = "libvirtual_npu_simulator.so"
STARTUP = "startup.py"
ACL = "acl.py"
STAND_INS = "stand_ins.txt"
"""Lists the stand-in libraries, which `startup.py` loads."""

_COMPILERS = ("c++", "g++", "clang++")


def folder_of_builds() -> Path:
    """`HAL_VIRTUAL_NPU_CACHE`, else a folder in the checkout (which git ignores), else the user's cache."""
    given = os.environ.get("HAL_VIRTUAL_NPU_CACHE")
    if given:
        return Path(given)
    checkout = HERE.parents[2]
    if (checkout / "setup.py").exists() and os.access(checkout, os.W_OK):
        return checkout / "build/virtual-npu"
    return Path.home() / ".cache/hal/virtual-npu"


def find_compiler() -> str:
    """The C++ compiler; `UnavailableError` if there is none."""
    for name in (os.environ.get("CXX"), *_COMPILERS):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise UnavailableError(
        f"the virtual NPU is compiled, and there is no C++ compiler (looked for $CXX, {', '.join(_COMPILERS)}); "
        "install one: apt-get install g++"
    )


def target() -> Path:
    """Where the build for this interpreter, these sources and this compiler is, or would be."""
    wheel = find_wheel()
    compiler = find_compiler()
    return folder_of_builds() / _fingerprint(wheel, compiler)


def build() -> Path:
    """The folder of the finished build; makes it if it is not there. Raises `UnavailableError`."""
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise UnavailableError(
            f"the virtual NPU runs on Linux on x86-64 or aarch64, and this is {platform.system()} on {platform.machine()}"
        )
    finished = target()
    with _alone(finished.parent):
        if not finished.exists():
            _build_into(finished)
    return finished


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """One build at a time; the others wait and find it done."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fingerprint(wheel: Wheel, compiler: str) -> str:
    said = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True).stdout
    content = hashlib.sha256("\0".join((wheel.torch_version, wheel.version, str(wheel.site), said)).encode())
    for source in sorted((*sources(), HERE / "wheel.py", HERE / "builder.py", HERE / STARTUP, HERE / ACL)):
        content.update(source.name.encode() + b"\0" + source.read_bytes())
    return content.hexdigest()[:16]


def sources() -> list[Path]:
    """What is compiled, and the headers of it."""
    return [path for path in (HERE / "native").iterdir() if path.suffix in (".cpp", ".h")]


def _build_into(finished: Path) -> None:
    start = time.monotonic()
    wheel, compiler = find_wheel(), find_compiler()
    needs = needs_of(wheel)
    print(
        f"virtual NPU: building for torch_npu {wheel.version} ({len(needs.libraries)} libraries to stand in for)",
        file=sys.stderr,
    )
    folder = Path(tempfile.mkdtemp(dir=finished.parent, prefix=f"{finished.name}-"))
    try:
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            simulator = pool.submit(_link_simulator, wheel, compiler, folder)
            _link_runtime(wheel, compiler, folder, needs, pool)
            simulator.result()
        shutil.copy(HERE / STARTUP, folder)
        (folder / "python").mkdir()
        shutil.copy(HERE / ACL, folder / "python")
        (folder / STAND_INS).write_text("\n".join(needs.libraries) + "\n")
        folder.chmod(0o755)
        folder.rename(finished)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted or failed build left
    print(f"virtual NPU: built in {time.monotonic() - start:.0f} s: {finished}", file=sys.stderr)


def _link_simulator(wheel: Wheel, compiler: str, folder: Path) -> None:
    torch, torch_npu = wheel.site / "torch", wheel.site / "torch_npu"
    _compile(
        compiler, "-std=c++20", "-O1", "-fPIC", "-shared", "-w", f"-I{torch}/include", f"-L{torch}/lib",
        f"-L{torch_npu}/lib", f"-Wl,-rpath,{torch}/lib:{torch_npu}/lib", str(HERE / "native/simulator.cpp"),
        "-o", str(folder / SIMULATOR), "-ltorch_cpu", "-lc10", "-ltorch_npu",
    )  # fmt: skip


def _link_runtime(wheel: Wheel, compiler: str, folder: Path, needs: Needs, pool: ThreadPoolExecutor) -> None:
    """The runtime, and an empty library for each name that torch_npu asks for, which leads to it."""
    headers = [f"-I{wheel.site}/torch_npu/include", f"-I{wheel.site}/torch_npu/include/third_party/acl/inc"]
    objects = folder / "objects"
    objects.mkdir()

    def compiled(source: Path) -> Path:
        result = objects / f"{source.stem}.o"
        _compile(
            compiler, "-std=c++20", "-O2", "-fPIC", "-Wall", "-Wextra", "-Werror", *(f"-isystem{flag[2:]}" for flag in headers),
            "-c", str(source), "-o", str(result),
        )  # fmt: skip
        return result

    written = list(
        pool.map(compiled, [path for path in sources() if path.suffix == ".cpp" and path.stem != "simulator"])
    )
    simulated = _names_in(written)
    rest = folder / "unsimulated.cpp"
    rest.write_text(_unsimulated(needs, simulated))
    _compile(
        compiler, "-O1", "-fPIC", "-shared", "-w", str(rest), *map(str, written), f"-Wl,-soname,{RUNTIME}",
        "-o", str(folder / RUNTIME), "-lrt", "-lpthread",
    )  # fmt: skip
    for name in needs.libraries:
        _compile(
            compiler, "-shared", "-fPIC", "-x", "c++", "/dev/null", "-x", "none", f"-Wl,-soname,{name}", "-Wl,--no-as-needed",
            "-Wl,-rpath,$ORIGIN", f"-L{folder}", f"-l:{RUNTIME}", "-o", str(folder / name),
        )  # fmt: skip
    shutil.rmtree(objects)


def _names_in(objects: list[Path]) -> set[str]:
    command = ["nm", "--defined-only", "--extern-only", *map(str, objects)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {line.split()[-1] for line in lines if len(line.split()) == 3}


def _unsimulated(needs: Needs, simulated: set[str]) -> str:
    """C++ of every symbol that has no code of its own: it says its name and fails."""
    lines = ['extern "C" long virtual_npu_unsimulated(const char *);']
    for number, name in enumerate(name for name in needs.functions if name not in simulated):
        # A constructor or destructor of a C++ class (named _Z...) is called without a look at what it returns.
        body = "return 0;" if name.startswith("_Z") else f'return virtual_npu_unsimulated("{name}");'
        lines.append(f'extern "C" long f{number}() __asm__("{name}"); long f{number}() {{ {body} }}')
    return "\n".join(lines) + "\n"


def _compile(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise UnavailableError(
            f"the virtual NPU could not be compiled; `{' '.join(command)}` said:\n{ended.stderr[-4000:]}"
        )
