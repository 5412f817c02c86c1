"""requirements/preflight.sh on machines that lack something, made by a PATH of stand-ins."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bash", "dirname", "basename", "cat", "grep", "awk")


class Machine:
    """A folder of commands that is the whole PATH: what is not in it is not installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for tool in TOOLS:
            (folder / tool).symlink_to(str(shutil.which(tool)))
        self.has("uname", '[[ "$1" == -s ]] && echo Linux || echo x86_64')
        self.has("df", "echo header; echo disk 99999999 0 99999999 0% /")
        self.has("getconf", '[[ "$1" == PAGE_SIZE ]] && echo 4096 || echo 4194304')
        self.has("c++", "exit 0")
        self.python("3.11")

    def has(self, name: str, body: str) -> None:
        """Install a command, or another version of it."""
        script = self.folder / name
        script.unlink(missing_ok=True)
        script.write_text(f"#!{shutil.which('bash')}\n{body}\n")
        script.chmod(0o755)

    def lacks(self, name: str) -> None:
        """Remove a command."""
        (self.folder / name).unlink()

    def python(self, version: str, *, fails_on: str = "nothing") -> None:
        """Install a Python that answers what preflight asks, and fails when it is asked about `fails_on`."""
        self.has("python3.11", f'[[ "$2" == *{fails_on}* ]] && exit 1; echo {version}')

    def preflight(self, accelerator: str = "cpu", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(ROOT / "requirements/preflight.sh"), accelerator],
            env={"PATH": str(self.folder), "MINDRL_CPUINFO": str(self._cpuinfo("avx2")), **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def _cpuinfo(self, flags: str) -> Path:
        path = self.folder / "cpuinfo"
        path.write_text(f"flags : fpu {flags}\n")
        return path


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "bin")


def test_a_complete_machine_gets_its_python_and_no_words(machine: Machine) -> None:
    ended = machine.preflight()
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "python3.11\n", "")


@pytest.mark.parametrize(("system", "processor"), [("Darwin", "arm64"), ("Linux", "riscv64")])
def test_other_platforms_are_refused_by_name(machine: Machine, system: str, processor: str) -> None:
    machine.has("uname", f'[[ "$1" == -s ]] && echo {system} || echo {processor}')
    ended = machine.preflight()
    assert ended.returncode == 2
    assert (processor if system == "Linux" else system) in ended.stderr


def test_aarch64_is_served_and_called_untested(machine: Machine) -> None:
    machine.has("uname", '[[ "$1" == -s ]] && echo Linux || echo aarch64')
    ended = machine.preflight()
    assert ended.returncode == 0
    assert "aarch64: nothing here has been tested on it" in ended.stderr


def test_no_python_names_the_packages_to_install(machine: Machine) -> None:
    machine.lacks("python3.11")
    ended = machine.preflight()
    assert ended.returncode == 2
    assert "apt-get install python3.11 python3.11-venv" in ended.stderr


def test_an_older_python_does_not_serve(machine: Machine) -> None:
    machine.python("3.10")
    assert machine.preflight().returncode == 2


def test_a_python_without_venv_names_its_package(machine: Machine) -> None:
    machine.python("3.11", fails_on="ensurepip")
    ended = machine.preflight()
    assert ended.returncode == 2
    assert "apt-get install python3.11-venv" in ended.stderr


def test_a_full_disk_is_refused_with_both_figures(machine: Machine) -> None:
    machine.has("df", "echo header; echo disk 99999999 0 1024000 99% /")
    (machine.folder / "checkout/requirements").mkdir(parents=True)
    shutil.copy(ROOT / "requirements/preflight.sh", machine.folder / "checkout/requirements")
    ended = subprocess.run(
        ["bash", str(machine.folder / "checkout/requirements/preflight.sh")],
        env={"PATH": str(machine.folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "1000 MB free" in ended.stderr
    assert "6000 MB needed" in ended.stderr


def test_what_can_be_done_without_is_a_warning_with_its_remedy(machine: Machine) -> None:
    machine.lacks("c++")
    machine.python("3.11", fails_on="libnuma")
    machine.has("getconf", '[[ "$1" == PAGE_SIZE ]] && echo 4096 || echo 500000')
    machine.has(
        "df", 'echo header; [[ "$2" == /dev/shm ]] && echo shm 65536 0 65536 0% / || echo d 9 0 99999999 0% /'
    )
    ended = machine.preflight()
    assert ended.returncode == 0
    warnings = ended.stderr.splitlines()
    assert len(warnings) == 4
    assert "apt-get install g++" in warnings[0]
    assert "apt-get install libnuma1" in warnings[1]
    assert "--shm-size=2g" in warnings[2]
    assert "1953 MB of memory" in warnings[3]


def test_a_processor_that_vllm_cannot_use_is_announced(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("flags : fpu sse4_2\n")
    ended = machine.preflight(MINDRL_CPUINFO=str(tmp_path / "cpuinfo"))
    assert ended.returncode == 0
    assert "no AVX2" in ended.stderr


def test_the_virtual_npu_needs_a_compiler(machine: Machine) -> None:
    machine.lacks("c++")
    ended = machine.preflight("npu-virtual")
    assert ended.returncode == 2
    assert "apt-get install g++" in ended.stderr


def test_a_python_can_be_named(machine: Machine) -> None:
    ended = machine.preflight(MINDRL_PYTHON=sys.executable)
    assert ended.stdout.strip() == sys.executable


@pytest.mark.parametrize("arguments", [["--accelerator", "tpu"], ["--accelerator"], ["--fast"]])
def test_install_refuses_what_it_does_not_know(arguments: list[str]) -> None:
    ended = subprocess.run(
        ["bash", str(ROOT / "requirements/install.sh"), *arguments],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr
