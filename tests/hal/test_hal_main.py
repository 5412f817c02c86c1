"""`python -m hal`: tables for people and machines, and what a launch script hands to Ray."""

import json
import os
import subprocess
import sys

import pytest

import hal
from hal.__main__ import main
from hal.launch import ray_start_arguments

HOST = hal.choose("cpu")


def test_the_overview_shows_devices_kernels_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--accelerator", "cpu", "--packed"]) == 0
    shown = capsys.readouterr().out
    for candidate in hal.candidates():
        assert candidate.name in shown
        assert (candidate.reason or "") in shown
    assert "not torch_varlen: runs on CUDA only, and this is cpu" in shown


def test_the_overview_is_there_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--accelerator", "cpu", "--json", "--dtype", "float32"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chosen"] == "cpu"
    assert found["facts"]["dtype"] == "float32"
    assert found["kernels"]["attention"]["provider"] == "torch_sdpa"
    assert {entry["name"] for entry in found["accelerators"]} == {c.name for c in hal.candidates()}


def test_an_absent_device_is_a_request_that_cannot_be_served(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--accelerator", "abacus"]) == 2
    assert "there is none of that name" in capsys.readouterr().err
    assert main(["--accelerator", "abacus", "launch-args", "--devices", "1"]) == 2
    assert main(["launch-args", "--devices", "1", "--accelerator", "abacus"]) == 2


def test_launch_args_offer_processes_of_the_host(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch-args", "--devices", "2", "--accelerator", "cpu"]) == 0
    assert capsys.readouterr().out.split() == ["--num-cpus=2"]
    assert main(["launch-args", "--devices", "2", "--accelerator", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "accelerator": "cpu",
        "resource": "CPU",
        "devices": 2,
        "arguments": ["--num-cpus=2"],
    }


class FourOfTheirKind(type(HOST)):
    """A machine with four devices."""

    device_type = "npu"
    visible_devices_variable = "VISIBLE"

    def __init__(self, resource: str) -> None:
        self.ray_resource = resource

    def device_count(self) -> int:
        return 4


def test_each_resource_goes_by_the_option_that_ray_has_for_it() -> None:
    assert ray_start_arguments(FourOfTheirKind("GPU"), 4) == ["--num-gpus=4"]
    assert ray_start_arguments(FourOfTheirKind("NPU"), 2) == ['--resources={"NPU": 2}']


def test_more_devices_than_the_node_has_are_refused() -> None:
    with pytest.raises(hal.UnavailableError, match=r"8 devices.*this process sees 4.*VISIBLE"):
        ray_start_arguments(FourOfTheirKind("NPU"), 8)
    with pytest.raises(hal.UnavailableError, match="at least one"):
        ray_start_arguments(HOST, 0)


def test_a_reader_that_goes_away_ends_the_tables_in_one_line():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "hal", "--accelerator", "cpu"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "python -m hal: whoever read the output has gone\n")
