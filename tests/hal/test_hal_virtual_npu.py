"""The builder of the virtual NPU, before anything is built: what it refuses, and how. What it builds: tests/npu."""

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from hal.errors import UnavailableError
from hal.testing.virtual_npu import builder, wheel


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What importlib.metadata says of torch and torch_npu."""
    found = {"torch": "2.13.0", "torch_npu": "2.13.0"}

    def version(name: str) -> str:
        if name not in found:
            raise metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(wheel, "version", version)
    return found


def test_an_environment_without_torch_npu_is_told_which_one_has_it(versions: dict[str, str]) -> None:
    del versions["torch_npu"]
    with pytest.raises(UnavailableError, match=r"torch_npu is not installed; .*--accelerator npu-virtual"):
        wheel.find_wheel()


def test_another_version_of_torch_npu_is_refused_by_name(versions: dict[str, str]) -> None:
    versions["torch_npu"] = "2.1.0"
    with pytest.raises(
        UnavailableError, match=r"written for torch_npu .*2\.13\.0.*, and 2\.1\.0 is installed"
    ):
        wheel.find_wheel()


def test_no_compiler_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UnavailableError, match=r"no C\+\+ compiler .*apt-get install g\+\+"):
        builder.find_compiler()


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Linux", "riscv64")])
def test_other_platforms_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(UnavailableError, match=f"{system} on {machine}"):
        builder.build()


@pytest.mark.parametrize(
    ("arguments", "reason"), [(["run"], "needs a command"), (["run", "--", "true"], "torch_npu")], ids=str
)
def test_what_cannot_be_run_ends_with_2_and_the_reason(arguments: list[str], reason: str) -> None:
    if metadata.packages_distributions().get("torch_npu"):
        pytest.skip("torch_npu is installed here, so the second one can be run")
    ended = subprocess.run(
        [sys.executable, "-m", "hal.testing.virtual_npu", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert reason in ended.stderr
    assert "Traceback" not in ended.stderr


def test_every_source_that_is_compiled_is_in_the_name_of_the_build() -> None:
    compiled = {path.name for path in builder.sources()}
    written = {path.name for path in (builder.HERE / "native").iterdir()}
    assert compiled == written
