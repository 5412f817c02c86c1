"""A device from somebody else's package: installed by pip, found by its entry points, no line of ours changed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from request_files import write_files

PACKAGE = Path(__file__).resolve().parents[1] / "hal" / "fake_device"
Environment = dict[str, str]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """That of a process which finds the package and sees the device."""
    source, target = tmp_path_factory.mktemp("source") / "package", tmp_path_factory.mktemp("installed")
    shutil.copytree(PACKAGE, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    return os.environ | {
        "PYTHONPATH": str(target),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "ABACUS_BEADS": "70",
    }


def run(place: Path, environment: Environment, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_it_is_found_and_its_kernel_comes_first(tmp_path: Path, environment: Environment) -> None:
    done = run(tmp_path, environment, "hal", "--json", "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["chosen"] == "abacus"
    assert shown["kernels"]["swiglu"]["provider"] == "by_hand"


def test_where_it_is_not_connected_it_says_why(tmp_path: Path, environment: Environment) -> None:
    without = {name: value for name, value in environment.items() if name != "ABACUS_BEADS"}
    done = run(tmp_path, without, "hal", "--accelerator", "abacus")
    assert done.returncode == 2
    assert "abacus: no abacus is connected: ABACUS_BEADS is not set" in done.stderr
    assert "cpu: usable" in done.stderr


def test_a_launch_script_is_told_its_resource(tmp_path: Path, environment: Environment) -> None:
    done = run(tmp_path, environment, "hal", "launch-args", "--devices", "2")
    assert done.stdout.splitlines() == ['--resources={"ABACUS": 2}'], done.stderr


def test_it_passes_the_conformance_suite(tmp_path: Path, environment: Environment) -> None:
    suite = ("pytest", "--pyargs", "hal.testing", "--accelerator", "abacus", "-q", "-p", "no:cacheprovider")
    done = run(tmp_path, environment, *suite)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout.splitlines()[-1]


@pytest.fixture
def request_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with run.yaml and what it starts from."""
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    return tmp_path


def test_grpo_runs_on_it_by_itself(request_files: Path, environment: Environment) -> None:
    done = run(request_files, environment, "mindrl", "train", "run.yaml", "trainer.total_steps=2")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "accelerator auto is abacus" in done.stdout + done.stderr
    rows = [json.loads(line) for line in (request_files / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["logprob_gap/max"] < 1e-4 for row in rows)
    facts = json.loads((request_files / "run" / "hal.json").read_text())
    assert facts["accelerator"] == "abacus"
    assert facts["description"] == "an abacus of 70 beads"
    assert facts["kernels"]["swiglu"]["provider"] == "by_hand"


def test_a_worker_that_does_not_see_it_says_so_and_takes_no_other_device(
    request_files: Path, environment: Environment
) -> None:
    done = run(request_files, environment, "mindrl", "train", "run.yaml", "cluster.env={ABACUS_BEADS: ''}")
    assert done.returncode == 1
    assert "accelerator 'abacus' was asked for, but it can't be used here" in done.stderr
    assert "abacus: no abacus is connected: ABACUS_BEADS is not set" in done.stderr
