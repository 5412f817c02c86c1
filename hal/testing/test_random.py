"""Random numbers: seeds, the round trip of a generator's state, and the same bits again."""

from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

import hal


def draw(accelerator: hal.Accelerator) -> list[float]:
    return [number.item() for number in torch.rand(8, device=accelerator.device())]


def test_the_same_seed_gives_the_same_numbers_and_another_one_others(accelerator: hal.Accelerator) -> None:
    accelerator.manual_seed(7)
    first = draw(accelerator)
    accelerator.manual_seed(8)
    assert draw(accelerator) != first
    accelerator.manual_seed(7)
    assert draw(accelerator) == first


def test_a_state_makes_the_round_trip_through_a_file(accelerator: hal.Accelerator, tmp_path: Path) -> None:
    draw(accelerator)
    state = accelerator.get_rng_state()
    assert (state.device.type, state.dtype) == ("cpu", torch.uint8)
    following = draw(accelerator)
    assert draw(accelerator) != following
    torch.save(state, tmp_path / "state")
    accelerator.set_rng_state(torch.load(tmp_path / "state"))
    assert draw(accelerator) == following


def test_a_state_is_a_copy_that_drawing_leaves_alone(accelerator: hal.Accelerator) -> None:
    state = accelerator.get_rng_state()
    kept = state.clone()
    draw(accelerator)
    assert torch.equal(state, kept)
    assert not torch.equal(accelerator.get_rng_state(), kept)


def test_other_generators_are_left_alone(accelerator: hal.Accelerator) -> None:
    accelerator.manual_seed(3)
    undisturbed = draw(accelerator)
    own = torch.Generator(accelerator.device()).manual_seed(5)
    host = torch.default_generator.get_state()
    accelerator.manual_seed(3)
    torch.rand(8, device=accelerator.device(), generator=own)
    assert draw(accelerator) == undisturbed
    if accelerator.device_type != "cpu":
        assert torch.equal(torch.default_generator.get_state(), host)


def test_dropout_drops_the_same_elements_from_the_same_state(accelerator: hal.Accelerator) -> None:
    x = torch.ones(64, 64, device=accelerator.device())
    state = accelerator.get_rng_state()
    first = F.dropout(x, 0.5)
    second = F.dropout(x, 0.5)
    accelerator.set_rng_state(state)
    assert torch.equal(F.dropout(x, 0.5), first)
    assert not torch.equal(first, second)


def test_recomputation_drops_what_the_first_pass_dropped(accelerator: hal.Accelerator) -> None:
    x = torch.ones(64, 64, device=accelerator.device(), requires_grad=True)

    def layer(x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, 0.5)

    y = cast(torch.Tensor, checkpoint(layer, x, use_reentrant=False))
    draw(accelerator)  # the recomputation must not see this
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


def test_determinism_is_switched_on_and_off(accelerator: hal.Accelerator) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    try:
        accelerator.set_deterministic(True)
        assert torch.are_deterministic_algorithms_enabled()
        accelerator.set_deterministic(False)
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        accelerator.set_deterministic(before)


def test_the_same_work_gives_the_same_bits(accelerator: hal.Accelerator) -> None:
    def work() -> torch.Tensor:
        x = x0.clone().requires_grad_()
        (x @ x.T).softmax(-1).mm(x).index_select(0, rows).square().sum().backward()
        assert x.grad is not None
        return x.grad

    accelerator.manual_seed(1)
    x0 = torch.randn(128, 64, device=accelerator.device())
    rows = torch.randint(128, (512,), device=accelerator.device())
    before = torch.are_deterministic_algorithms_enabled()
    accelerator.set_deterministic(True)
    try:
        assert torch.equal(work(), work())
    finally:
        accelerator.set_deterministic(before)
