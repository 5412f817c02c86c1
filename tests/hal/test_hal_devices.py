"""What single devices promise beyond the contract that hal.testing holds them to."""

import inspect
import re
from pathlib import Path

import pytest
import torch

import hal
from hal.devices import cuda, module_backed, npu


def test_the_page_about_new_devices_names_every_member_of_the_contract() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "new-device.md").read_text()
    lines = page.partition("Members of the contract")[2].partition("##")[0]
    members = {name for name in dir(hal.Accelerator) if not name.startswith("_")}
    assert set(re.findall(r"`(\w+)`", lines)) == members | set(hal.Accelerator.__annotations__)


def test_the_host_counts_as_one_device_without_index() -> None:
    host = hal.choose("cpu")
    assert host.device() == host.device(0) == torch.device("cpu")
    with pytest.raises(hal.UnavailableError, match="index 0"):
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


def test_a_device_that_is_lost_after_it_was_chosen_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "none")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(hal.UnavailableError, match=r"sees none.*CUDA_VISIBLE_DEVICES is none.*lost"):
        cuda.CudaAccelerator().set_device(0)


def test_names_of_vendors_devices_are_what_ray_and_torch_call_them() -> None:
    assert (cuda.CudaAccelerator.ray_resource, npu.NpuAccelerator.ray_resource) == ("GPU", "NPU")
    assert cuda.CudaAccelerator.communication_backend == "cpu:gloo,cuda:nccl"
    assert npu.NpuAccelerator.communication_backend == "cpu:gloo,npu:hccl"
    assert cuda.CudaAccelerator().tensor_type_name(torch.bfloat16) == "torch.cuda.BFloat16Tensor"
