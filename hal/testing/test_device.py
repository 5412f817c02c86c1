"""Which device: names, indices, types, pinned memory, environment."""

from pathlib import Path

import pytest
import torch

import hal
from hal.testing.ranks import run_on_ranks


def test_names_are_set(accelerator: hal.Accelerator) -> None:
    assert accelerator.name
    assert accelerator.ray_resource
    assert torch.device(accelerator.device_type).type == accelerator.device_type
    assert accelerator.description()
    assert accelerator.name in repr(accelerator)


def test_host_tensors_have_a_communication_backend_too(accelerator: hal.Accelerator) -> None:
    assert "gloo" in accelerator.communication_backend, "checkpoints and records are exchanged on the host"


def test_every_device_that_is_counted_can_be_set(accelerator: hal.Accelerator, tmp_path: Path) -> None:
    assert accelerator.device_count() >= 1
    assert 0 <= accelerator.current_device() < accelerator.device_count()
    # In a process of its own: torch_npu can't compute gradients any more where two devices were current in one.
    run_on_ranks(sets_each_device, 1, tmp_path, accelerator.name, accelerator=accelerator.name)


def sets_each_device(rank: int, world_size: int, name: str) -> None:
    accelerator = hal.choose(name)
    for index in reversed(range(accelerator.device_count())):
        accelerator.set_device(index)
        assert accelerator.current_device() == index
        here, there = (torch.ones(1, device=accelerator.device(i)) for i in (None, index))
        assert here.device == there.device
        assert (here + there).item() == 2


@pytest.mark.parametrize("index", [-1, 10_000])
def test_a_device_that_is_not_there_is_refused_with_what_is(accelerator: hal.Accelerator, index: int) -> None:
    with pytest.raises(hal.UnavailableError, match=rf"device {index} .* index 0"):
        accelerator.set_device(index)


def test_unknown_members_are_errors(accelerator: hal.Accelerator) -> None:
    with pytest.raises(AttributeError, match="is_faster_than_light"):
        _ = accelerator.is_faster_than_light  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]


def test_work_is_waited_for(accelerator: hal.Accelerator) -> None:
    ones = torch.ones(64, 64, device=accelerator.device())
    product = ones @ ones
    accelerator.synchronize()
    assert product.sum().item() == 64**3


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str
)
def test_a_type_is_multiplied_or_refused_with_the_reason(
    accelerator: hal.Accelerator, dtype: torch.dtype
) -> None:
    reason = accelerator.supports_dtype(dtype)
    if reason is not None:
        assert str(dtype) in reason, "a reason names what it is about"
    elif dtype.itemsize > 1:
        ones = torch.ones(16, 16, dtype=dtype, device=accelerator.device())
        assert (ones @ ones).sum().item() == 16**3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_type_names_are_those_of_tensors(accelerator: hal.Accelerator, dtype: torch.dtype) -> None:
    found = torch.empty(1, dtype=dtype, device=accelerator.device()).type()
    assert accelerator.tensor_type_name(dtype) == found


def test_pinned_tensors_keep_their_values(accelerator: hal.Accelerator) -> None:
    pinned = accelerator.pin(torch.arange(5))
    assert pinned.device.type == "cpu"
    assert pinned.to(accelerator.device(), non_blocking=True).tolist() == [0, 1, 2, 3, 4]


def test_environments_are_strings(accelerator: hal.Accelerator) -> None:
    for environment in (
        accelerator.environment_defaults(),
        accelerator.environment_defaults(processes_per_node=8),
        accelerator.rollout_environment(),
    ):
        assert all(isinstance(item, str) for pair in environment.items() for item in pair)


def test_communication_is_bound_to_an_interface_host_tensors_included(accelerator: hal.Accelerator) -> None:
    environment = accelerator.interface_environment("eth7")
    assert "GLOO_SOCKET_IFNAME" in environment
    assert set(environment.values()) == {"eth7"}


def test_ray_is_asked_for_whole_devices(accelerator: hal.Accelerator) -> None:
    (argument, asked), *others = accelerator.ray_arguments(2).items()
    assert not others
    assert (argument, asked) in (
        ("num_cpus", 2),
        ("num_gpus", 2),
        ("resources", {accelerator.ray_resource: 2}),
    )
