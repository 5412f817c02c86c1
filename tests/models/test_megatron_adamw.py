"""The optimizer that Megatron-core is given steps by the HAL's kernel and is torch's AdamW otherwise."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch

import hal
from hal.kernels.registry import providers
from hal.kernels.sample import SMALL, normal
from mindrl.models.megatron.adamw import KernelAdamW

FACTS = replace(SMALL, own_optimizer=True)
SETTINGS: dict[str, Any] = {"betas": (0.9, 0.95), "eps": 1e-8}


def groups() -> list[dict[str, Any]]:
    """Two with different decay, as matrices and norms have."""
    return [
        {"params": [torch.nn.Parameter(normal(4, 6, seed=0))], "lr": 1e-2, "weight_decay": 0.1},
        {
            "params": [torch.nn.Parameter(normal(5, seed=1)), torch.nn.Parameter(normal(3, seed=2))],
            "lr": 3e-2,
            "weight_decay": 0.0,
        },
    ]


def take_steps(optimizer: torch.optim.Optimizer, first: int, last: int) -> list[torch.Tensor]:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for step in range(first, last):
        for index, param in enumerate(params):
            param.grad = normal(*param.shape, seed=100 * step + index)
        optimizer.step()
    return [param.detach() for param in params]


@pytest.mark.parametrize(
    "name", [p.name for p in providers("adamw") if p.why_not(hal.choose("cpu"), FACTS) is None]
)
def test_its_steps_and_state_are_those_of_torchs_adamw(name: str) -> None:
    kernel = hal.select(hal.choose("cpu"), FACTS, {"adamw": name}).adamw
    ours, theirs = KernelAdamW(groups(), kernel, **SETTINGS), torch.optim.AdamW(groups(), **SETTINGS)
    torch.testing.assert_close(take_steps(ours, 0, 5), take_steps(theirs, 0, 5), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.state_dict()["state"], theirs.state_dict()["state"])


def test_each_continues_from_the_others_state() -> None:
    kernel = hal.select(hal.choose("cpu"), FACTS).adamw
    start, ours = torch.optim.AdamW(groups(), **SETTINGS), KernelAdamW(groups(), kernel, **SETTINGS)
    take_steps(start, 0, 3)
    for group, into in zip(start.param_groups, ours.param_groups, strict=True):
        for source, target in zip(group["params"], into["params"], strict=True):
            target.data.copy_(source.data)
    ours.load_state_dict(deepcopy(start.state_dict()))
    torch.testing.assert_close(take_steps(ours, 3, 5), take_steps(start, 3, 5), rtol=1e-12, atol=1e-12)


def test_a_parameter_without_gradient_stays_as_it_is() -> None:
    optimizer = KernelAdamW(groups(), hal.select(hal.choose("cpu"), FACTS).adamw, **SETTINGS)
    before = [param.clone() for group in optimizer.param_groups for param in group["params"]]
    optimizer.param_groups[0]["params"][0].grad = torch.ones(4, 6, dtype=torch.float64)
    optimizer.step()
    after = [param for group in optimizer.param_groups for param in group["params"]]
    assert [torch.equal(a, b) for a, b in zip(after, before, strict=True)] == [False, True, True]
