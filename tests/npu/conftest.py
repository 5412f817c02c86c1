"""These tests want an Ascend NPU, real or virtual: `bash tests/npu/run.sh` runs them on the virtual one."""

import pytest

import hal


@pytest.fixture(scope="session")
def npu() -> hal.Accelerator:
    try:
        return hal.choose("npu")
    except hal.UnavailableError:
        (candidate,) = (found for found in hal.candidates() if found.name == "npu")
        pytest.skip(f"npu: {candidate.reason}")
