"""Redirected modules reach another device where they say `torch.cuda`; torch itself stays what it is."""

import types

import pytest
import torch

import hal

HOST = hal.choose("cpu")

SOURCE = """
import torch

def everything():
    device = torch.cuda.current_device()
    torch.cuda.set_device(0)
    torch.cuda.synchronize()
    torch.cuda.nvtx.range_push("a"); torch.cuda.nvtx.range_pop()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        x = torch.zeros(4, device=device)
    torch.cuda.default_stream().wait_stream(side)
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return x

def made_on_cuda():
    return [
        torch.tensor([1.0], device="cuda"), torch.zeros(2, device="cuda:0"), torch.arange(3, device="cuda"),
        torch.empty_like(torch.ones(2), device=torch.device("cuda")), torch.ones(2, pin_memory=True),
        torch.full((2,), 1, device=torch.device("cuda", torch.cuda.current_device())),
        torch.randn(2, generator=torch.Generator(device="cuda"), device="cuda"),
    ]

def saved(path):
    torch.save(torch.ones(2), path)
    return torch.load(path, map_location="cuda")

def random_round_trip():
    torch.cuda.manual_seed(3)
    state = torch.cuda.get_rng_state()
    first = torch.rand(3, device="cuda")
    torch.cuda.random.set_rng_state(state)
    return first, torch.rand(3, device="cuda")

def is_device(x):
    return isinstance(x, torch.device), isinstance(torch.ones(1), torch.Tensor)

def with_device():
    with torch.device("cuda"):
        return torch.ones(1)

def asked():
    return torch.cuda.is_available(), torch.cuda.device_count(), torch.cuda.memory_stats(), torch.cuda.FloatTensor

def unknown():
    return torch.cuda.CUDAGraph()
"""


@pytest.fixture
def module() -> types.ModuleType:
    made = types.ModuleType("says_cuda")
    exec(SOURCE, vars(made))
    return made


@pytest.fixture
def redirected(module: types.ModuleType) -> types.ModuleType:
    assert hal.redirect([module], HOST).redirected == ("says_cuda",)
    return module


def test_device_streams_and_events_are_the_accelerators(redirected: types.ModuleType) -> None:
    assert redirected.everything().device == torch.device("cpu")


def test_factories_put_what_is_meant_for_cuda_on_the_accelerator(
    redirected: types.ModuleType, tmp_path
) -> None:
    for tensor in [
        *redirected.made_on_cuda(),
        redirected.saved(tmp_path / "tensor"),
        redirected.with_device(),
    ]:
        assert tensor.device == torch.device("cpu")


def test_random_state_is_the_accelerators(redirected: types.ModuleType) -> None:
    first, again = redirected.random_round_trip()
    assert torch.equal(first, again)


def test_types_are_still_torchs_types(redirected: types.ModuleType) -> None:
    assert redirected.is_device(torch.device("cpu")) == (True, True)
    assert redirected.is_device("cpu") == (False, True)
    assert redirected.torch.float32 is torch.float32
    assert redirected.torch.device | None  # as in annotations


def test_the_host_says_that_cuda_is_not_available_but_counts_as_one_device(
    redirected: types.ModuleType,
) -> None:
    available, count, stats, float_tensor = redirected.asked()
    assert not available
    assert count == 1
    assert stats["allocated_bytes.all.current"] > 0
    assert isinstance(torch.ones(1), float_tensor)


def test_what_has_no_counterpart_is_an_attribute_error_that_says_so(redirected: types.ModuleType) -> None:
    with pytest.raises(AttributeError, match=r"torch.cuda.CUDAGraph has no counterpart on cpu"):
        redirected.unknown()
    assert not hasattr(redirected.torch.cuda, "CUDAGraph")


def test_torch_itself_is_untouched(module: types.ModuleType) -> None:
    def everything_in_torch() -> dict[tuple[str, str], int]:
        owners = {"torch": torch, "cuda": torch.cuda, "tensor": torch.Tensor, "random": torch.cuda.random}
        return {
            (owner, name): id(item) for owner, where in owners.items() for name, item in vars(where).items()
        }

    before = everything_in_torch()
    hal.redirect([module], HOST)
    module.everything()
    assert everything_in_torch() == before


def test_redirecting_again_changes_nothing(redirected: types.ModuleType) -> None:
    proxy = redirected.torch
    record = hal.redirect([redirected], HOST)
    assert record.already == ("says_cuda",)
    assert record.redirected == ()
    assert redirected.torch is proxy


def test_a_module_without_torch_is_left_alone_and_named() -> None:
    assert hal.redirect([types], HOST).without_torch == ("types",)


def test_what_a_module_sets_on_torch_reaches_torch(redirected: types.ModuleType) -> None:
    redirected.torch.set_by_a_test = 5
    try:
        assert torch.set_by_a_test == 5
    finally:
        del torch.set_by_a_test


class Elsewhere(type(HOST)):
    """The host under another name."""

    name = "elsewhere"


def test_one_process_redirects_to_one_device(redirected: types.ModuleType) -> None:
    with pytest.raises(hal.RedirectError, match="redirected to cpu already"):
        hal.redirect([redirected], Elsewhere())


def test_on_cuda_there_is_nothing_to_redirect(module: types.ModuleType) -> None:
    class Cuda(type(HOST)):
        device_type = "cuda"

    assert hal.redirect([module], Cuda()).redirected == ()
    assert module.torch is torch
