"""What every accelerator must do, one property a check."""

from collections.abc import Callable

import torch

from hal.accelerator import Accelerator

Check = Callable[[Accelerator], None]


def names_are_set(accelerator: Accelerator) -> None:
    assert accelerator.name
    assert accelerator.ray_resource
    assert "gloo" in accelerator.communication_backend, "host tensors need a backend too"
    assert torch.device(accelerator.device_type).type == accelerator.device_type
    assert accelerator.description()


def devices_are_counted_and_set(accelerator: Accelerator) -> None:
    count = accelerator.device_count()
    assert count >= 1
    before = accelerator.current_device()
    accelerator.set_device(count - 1)
    assert accelerator.current_device() == count - 1
    accelerator.set_device(before)
    assert (
        torch.empty(1, device=accelerator.device()).device
        == torch.empty(1, device=accelerator.device(before)).device
    )


def work_is_waited_for(accelerator: Accelerator) -> None:
    product = torch.ones(64, 64, device=accelerator.device()) @ torch.ones(
        64, 64, device=accelerator.device()
    )
    accelerator.synchronize()
    assert product.sum().item() == 64**3


def streams_order_work(accelerator: Accelerator) -> None:
    side, event = accelerator.Stream(), accelerator.Event()
    x = torch.zeros(1024, device=accelerator.device())
    side.wait_stream(accelerator.current_stream())
    with accelerator.stream(side):
        x += 1
        event.record(side)
    accelerator.current_stream().wait_event(event)
    accelerator.current_stream().wait_stream(side)
    assert x.sum().item() == 1024
    with accelerator.stream(None):
        x += 1
    event.synchronize()
    assert event.query()
    assert side.query() in (True, False)


def events_measure_time(accelerator: Accelerator) -> None:
    start, end = accelerator.Event(enable_timing=True), accelerator.Event(enable_timing=True)
    start.record()
    torch.mm(
        torch.ones(256, 256, device=accelerator.device()), torch.ones(256, 256, device=accelerator.device())
    )
    end.record()
    end.synchronize()
    assert start.elapsed_time(end) > 0


def memory_is_accounted(accelerator: Accelerator) -> None:
    num_bytes = 64 * 2**20
    before = accelerator.memory_allocated()
    block = torch.ones(num_bytes, dtype=torch.uint8, device=accelerator.device())
    accelerator.synchronize()
    assert accelerator.memory_allocated() >= before + num_bytes // 2
    del block
    accelerator.empty_cache()
    assert accelerator.max_memory_allocated() >= before + num_bytes // 2, "the peak outlives the block"
    accelerator.reset_peak_memory()
    assert accelerator.max_memory_allocated() < before + num_bytes // 2, "the peak starts afresh"
    free, total = accelerator.memory_info()
    assert 0 < free <= total


def same_seed_same_numbers(accelerator: Accelerator) -> None:
    def draw() -> tuple[float, ...]:
        return tuple(number.item() for number in torch.rand(8, device=accelerator.device()))

    accelerator.manual_seed(7)
    first = draw()
    accelerator.manual_seed(7)
    assert draw() == first
    state = accelerator.get_rng_state()
    following = draw()
    assert following != first
    accelerator.set_rng_state(state)
    assert draw() == following
    assert state.device.type == "cpu"
    assert state.dtype == torch.uint8


def determinism_is_switched(accelerator: Accelerator) -> None:
    accelerator.set_deterministic(True)
    assert torch.are_deterministic_algorithms_enabled()
    accelerator.set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()


def supported_types_are_multiplied(accelerator: Accelerator) -> None:
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        reason = accelerator.supports_dtype(dtype)
        if reason is not None:
            assert str(dtype) in reason, "a reason names what it is about"
        elif dtype.itemsize > 1:
            ones = torch.ones(16, 16, dtype=dtype, device=accelerator.device())
            assert (ones @ ones).sum().item() == 16**3


def type_names_are_torchs(accelerator: Accelerator) -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert (
            accelerator.tensor_type_name(dtype)
            == torch.empty(1, dtype=dtype, device=accelerator.device()).type()
        )


def pinned_tensors_keep_their_values(accelerator: Accelerator) -> None:
    assert accelerator.pin(torch.arange(5)).to(accelerator.device()).tolist() == [0, 1, 2, 3, 4]


def environments_are_strings(accelerator: Accelerator) -> None:
    for environment in (
        accelerator.environment_defaults(),
        accelerator.environment_defaults(processes_per_node=8),
        accelerator.interface_environment("eth7"),
        accelerator.rollout_environment(),
    ):
        assert all(isinstance(item, str) for pair in environment.items() for item in pair)
    assert set(accelerator.interface_environment("eth7").values()) == {"eth7"}
    assert "GLOO_SOCKET_IFNAME" in accelerator.interface_environment("eth7")


def unknown_members_are_errors(accelerator: Accelerator) -> None:
    assert not hasattr(accelerator, "is_faster_than_light")


CHECKS: tuple[Check, ...] = (
    names_are_set,
    devices_are_counted_and_set,
    work_is_waited_for,
    streams_order_work,
    events_measure_time,
    memory_is_accounted,
    same_seed_same_numbers,
    determinism_is_switched,
    supported_types_are_multiplied,
    type_names_are_torchs,
    pinned_tensors_keep_their_values,
    environments_are_strings,
    unknown_members_are_errors,
)
