"""The device contract on every device: absent ones skip, with the reason."""

import inspect
import re

import pytest
import torch

import hal
from hal.devices import cuda, module_backed, npu
from hal.testing import accelerator_checks

DEVICES = ("cpu", "cuda", "npu")


@pytest.fixture(params=DEVICES)
def accelerator(request: pytest.FixtureRequest) -> hal.Accelerator:
    try:
        return hal.choose(request.param)
    except hal.UnavailableError:
        (candidate,) = (found for found in hal.candidates() if found.name == request.param)
        pytest.skip(f"{request.param}: {candidate.reason}")


@pytest.mark.parametrize("check", accelerator_checks.CHECKS, ids=lambda check: check.__name__)
def test_every_accelerator_keeps_the_contract(
    accelerator: hal.Accelerator, check: accelerator_checks.Check
) -> None:
    check(accelerator)


def test_every_check_of_the_suite_is_run() -> None:
    written = {
        name
        for name, item in vars(accelerator_checks).items()
        if getattr(item, "__module__", "") == accelerator_checks.__name__
    }
    assert written == {check.__name__ for check in accelerator_checks.CHECKS}


def test_the_host_counts_as_one_device_without_index() -> None:
    host = hal.choose("cpu")
    assert host.device() == host.device(0) == torch.device("cpu")
    with pytest.raises(ValueError, match="index 0"):
        host.device(1)


def test_threads_of_processes_on_one_host_never_outnumber_its_cores() -> None:
    host = hal.choose("cpu")
    assert host.environment_defaults()["OMP_NUM_THREADS"] == "1"
    alone = int(host.environment_defaults(processes_per_node=1)["OMP_NUM_THREADS"])
    assert host.environment_defaults(processes_per_node=alone)["OMP_NUM_THREADS"] == "1"
    assert host.environment_defaults(processes_per_node=1000)["OMP_NUM_THREADS"] == "1"


def test_what_is_asked_of_a_devices_torch_module_is_there_in_torch_cuda() -> None:
    asked = re.findall(r"self\.module\.(\w+)", inspect.getsource(module_backed))
    assert "mem_get_info" in asked
    assert [name for name in asked if not hasattr(torch.cuda, name)] == []


def test_names_of_vendors_devices_are_what_ray_and_torch_call_them() -> None:
    assert (cuda.CudaAccelerator.ray_resource, npu.NpuAccelerator.ray_resource) == ("GPU", "NPU")
    assert cuda.CudaAccelerator.communication_backend == "cpu:gloo,cuda:nccl"
    assert npu.NpuAccelerator.communication_backend == "cpu:gloo,npu:hccl"
    assert cuda.CudaAccelerator().tensor_type_name(torch.bfloat16) == "torch.cuda.BFloat16Tensor"
