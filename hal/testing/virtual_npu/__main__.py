"""The virtual NPU from the command line.

    python -m hal.testing.virtual_npu build
    python -m hal.testing.virtual_npu run [--devices N] [--memory-mb N] -- COMMAND ...
    python -m hal.testing.virtual_npu info

Exit codes: that of COMMAND; 2 if the virtual NPU can't be built or COMMAND can't be started.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

from hal.errors import UnavailableError
from hal.testing.virtual_npu.builder import build, find_compiler, target
from hal.testing.virtual_npu.wheel import find_wheel


def environment(folder: Path) -> dict[str, str]:
    """What COMMAND and its children need."""
    binaries = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    return {"HAL_VIRTUAL_NPU": str(folder), "TORCH_DEVICE_BACKEND_AUTOLOAD": "1", "PATH": binaries}


def run(arguments: argparse.Namespace) -> NoReturn:
    """Become COMMAND."""
    command: list[str] = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise UnavailableError("virtual NPU: `run` needs a command, as in: run -- python -m hal")
    os.environ.update(environment(build()))
    if arguments.devices is not None:
        os.environ["HAL_VIRTUAL_NPU_DEVICES"] = str(arguments.devices)
    if arguments.memory_mb is not None:
        os.environ["HAL_VIRTUAL_NPU_MEMORY_MB"] = str(arguments.memory_mb)
    if shutil.which(command[0]) is None:
        raise UnavailableError(f"virtual NPU: there is no command {command[0]!r}")
    sys.stdout.flush()
    os.execvp(command[0], command)


def info() -> int:
    """Say what there is."""
    wheel, folder = find_wheel(), target()
    print(f"torch_npu  {wheel.version} beside torch {wheel.torch_version}, in {wheel.site}")
    print(f"compiler   {find_compiler()}")
    print(f"build      {folder}{'' if folder.exists() else ' (not built yet)'}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m hal.testing.virtual_npu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="action", required=True)
    commands.add_parser("build", help="build it, or find it built")
    commands.add_parser("info", help="what is built, for which versions")
    runner = commands.add_parser("run", help="run a command on it")
    runner.add_argument("--devices", type=int, help="how many devices the machine seems to have (default 2)")
    runner.add_argument("--memory-mb", type=int, help="memory of each, in MiB (default 65536)")
    runner.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    try:
        if arguments.action == "run":
            run(arguments)
        if arguments.action == "info":
            return info()
        print(build())
        return 0
    except UnavailableError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
