"""Which devices there are, and why not; devices and kernels that other packages add."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from installed import install

import hal
from hal import discovery
from hal.devices import cpu

ADDED = {
    "added_device.py": """
from hal.devices.cpu import CpuAccelerator

class Abacus(CpuAccelerator):
    name = "abacus"
""",
    "added_kernel.py": """
from hal import Provider

def swiglu(x):
    gate, up = x.chunk(2, dim=-1)
    return gate * gate.sigmoid() * up

KERNELS = [Provider("swiglu", "by_hand", swiglu)]
""",
}
ENTRY_POINTS = """
[hal.accelerators]
abacus = added_device:Abacus

[hal.kernels]
by_hand = added_kernel:KERNELS
"""


@pytest.fixture
def added_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "added", ADDED, ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_every_candidate_is_usable_or_has_a_reason() -> None:
    for candidate in hal.candidates():
        assert (candidate.accelerator is None) == (candidate.reason is not None)
    assert {"cuda", "npu", "cpu"} <= {candidate.name for candidate in hal.candidates()}


def test_the_host_can_always_be_asked_for() -> None:
    assert hal.choose("cpu").name == "cpu"


def test_an_absent_device_is_an_error_with_every_candidates_reason() -> None:
    absent = [candidate for candidate in hal.candidates() if candidate.accelerator is None]
    if not absent:
        pytest.skip("every known device is present")
    with pytest.raises(hal.UnavailableError) as raised:
        hal.choose(absent[0].name)
    for candidate in hal.candidates():
        assert f"  {candidate.name}: {candidate.reason or 'usable'}" in str(raised.value)


def test_a_misspelt_device_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(hal.UnavailableError, match="did you mean 'cpu'"):
        hal.choose("cpuu")


@pytest.mark.usefixtures("added_package")
def test_a_package_adds_a_device_and_auto_prefers_it() -> None:
    assert hal.choose("abacus").name == "abacus"
    assert hal.choose("auto").name == "abacus"
    assert hal.choose("cpu").name == "cpu"


@pytest.mark.usefixtures("added_package")
def test_a_package_adds_a_kernel_and_auto_prefers_it() -> None:
    from hal.kernels.sample import SMALL

    assert hal.select(hal.choose("cpu"), SMALL).providers["swiglu"] == "by_hand"
    assert hal.select(hal.choose("cpu"), SMALL, {"swiglu": "reference"}).providers["swiglu"] == "reference"


def unusable() -> hal.Accelerator:
    raise hal.UnavailableError("its driver is too old", hardware=True)


def test_auto_says_what_it_chose_and_why_not_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_BUILT_IN", {"cuda": unusable, "cpu": cpu.find})
    choice = hal.decide("auto")
    assert str(choice) == "accelerator auto is cpu\n  not cuda: its driver is too old"
    assert hal.decide("cpu").passed_over == ()


def test_auto_that_passes_over_a_device_of_this_machine_warns_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(discovery, "_BUILT_IN", {"cuda": unusable, "cpu": cpu.find})
    discovery._log_once.cache_clear()
    assert hal.choose("auto").name == hal.choose("auto").name == "cpu"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "not cuda: its driver is too old" in record.message


def test_hal_imports_nothing_that_is_built_on_it() -> None:
    code = "import sys, hal, hal.__main__; print(*{n.split('.')[0] for n in sys.modules})"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert not {"mindrl", "ray", "megatron", "vllm", "transformers"} & set(found.stdout.split())
