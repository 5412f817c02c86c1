"""What `mindrl doctor` says of versions, disks and kernels."""

import argparse
import json
from collections import namedtuple

import pytest

from hal.versions import SETS
from mindrl.cli import doctor
from mindrl.cli.doctor import Finding
from mindrl.cli.tried import tried_versions

GIB = 2**30


@pytest.mark.parametrize("name", [tested.name for tested in SETS])
def test_every_set_that_hal_names_has_its_versions(name: str) -> None:
    tried = tried_versions(name)
    assert {"torch", "ray", "megatron-core"} <= tried.keys()
    assert next(tested for tested in SETS if tested.name == name).versions.items() <= tried.items()


def named(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_an_untried_version_in_range_is_a_note_and_one_out_of_range_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = {"mindrl": "0.1.0", "torch": "2.12.0", "ray": "2.60.0", "transformers": "4.9"}
    monkeypatch.setattr(doctor, "version", lambda name: installed.get(name, "99"))
    found = named(list(doctor._packages({"torch": "2.13.0", "ray": "2.60.0", "transformers": "5.17.0"})))
    assert found["torch"] == Finding("torch", "note", "2.12.0, untried; 2.13.0 was")
    assert found["ray"] == Finding("ray", "ok", "2.60.0")
    assert found["transformers"].state == "missing"


def test_a_rollout_engine_of_the_set_that_is_not_installed_is_a_note() -> None:
    (found,) = doctor._engines({"vllm-of-another-world": "1.0", "torch": "2.13.0"})
    assert (found.state, found.name) == ("note", "vllm-of-another-world")
    assert "rollout goes through transformers" in found.found


def test_a_full_disk_is_a_note_with_what_lies_there(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage(GIB, GIB, 0))
    found = named(list(doctor._disk()))
    assert found["disk"].state == found["disk, /tmp"].state == "note"
    assert "trainer.output_dir" in str(found["disk"].remedy)
    assert "Ray's session" in str(found["disk, /tmp"].remedy)


def test_the_report_for_machines_names_the_set_and_every_finding(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.run(argparse.Namespace(accelerator="cpu", json=True))
    report = json.loads(capsys.readouterr().out)
    assert report["tested_set"]["name"] == "cpu"
    assert report["better_kernels"] == {}
    names = {finding["name"] for finding in report["findings"]}
    assert {"torch", "ray", "Ray cluster", "/dev/shm", "disk", "memory"} <= names
