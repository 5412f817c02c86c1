"""Megatron-core's own permutation of tokens and the HAL's are the same function, gradients included."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from megatron.core.transformer.moe import moe_utils

from hal.kernels.moe_permute import maps
from hal.kernels.provider import Provider
from hal.kernels.registry import providers
from hal.kernels.sample import normal
from hal.kernels.tolerances import allowed
from hal.testing.kernel_checks import errors

HIDDEN = 24
MAPS = maps()
KERNELS = {
    name: tuple(
        next(provider for provider in providers(op) if provider.name == name)
        for op in ("moe_permute", "moe_unpermute")
    )
    for name in ("torch", "reference")
}


@pytest.fixture(params=KERNELS)
def kernels(request: pytest.FixtureRequest) -> tuple[Provider, Provider]:
    return KERNELS[request.param]


def gradients(results: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    directions = [normal(*result.shape, seed=7 + i).to(result.dtype) for i, result in enumerate(results)]
    return list(torch.autograd.grad(results, inputs, directions))


def leaves(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.detach().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("known", [False, True], ids=["rows unknown", "rows known"])
def test_permute(kernels: tuple[Provider, Provider], name: str, known: bool) -> None:
    routing_map = MAPS[name]
    rows = int(routing_map.sum()) if known else None
    x, probs = normal(len(routing_map), HIDDEN, seed=0).float(), normal(*routing_map.shape, seed=1).float()
    found: list[list[torch.Tensor]] = []
    for theirs in (False, True):
        inputs = leaves(x, probs)
        if theirs:
            results = moe_utils.permute(inputs[0], routing_map, probs=inputs[1], num_out_tokens=rows)
        else:
            results = kernels[0].function(inputs[0], routing_map, inputs[1], num_rows=rows)
        permuted, permuted_probs, row_ids = results
        found.append([permuted, permuted_probs, row_ids, *gradients((permuted, permuted_probs), inputs)])
    assert max(errors(*found)) <= allowed("moe_permute", torch.float32)[1]


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("weighted", [False, True], ids=["sum", "weighted sum"])
def test_unpermute(kernels: tuple[Provider, Provider], name: str, weighted: bool) -> None:
    routing_map = MAPS[name]
    row_ids = routing_map.T.nonzero()[:, 1]
    permuted = normal(len(row_ids), HIDDEN, seed=0).float()
    probs = [normal(*routing_map.shape, seed=1).float()] if weighted else []
    found: list[list[torch.Tensor]] = []
    for theirs in (False, True):
        inputs = leaves(permuted, *probs)
        options: dict[str, Any] = {"probs": inputs[1], "routing_map": routing_map} if weighted else {}
        if theirs:
            shape = torch.Size([len(routing_map), HIDDEN])
            tokens = moe_utils.unpermute(inputs[0], row_ids, shape, **options)
        else:
            tokens = kernels[1].function(inputs[0], row_ids, **options, num_tokens=len(routing_map))
        found.append([tokens, *gradients([tokens], inputs)])
    assert max(errors(*found)) <= allowed("moe_unpermute", torch.float32)[1]


def test_a_map_of_fixed_capacity_is_an_ordinary_map(kernels: tuple[Provider, Provider]) -> None:
    """Megatron's drop_and_pad: every expert gets as many tokens as it has room for, so that shapes are known."""
    routing_map = MAPS["equal capacity"]
    rows = int(routing_map.sum())
    x, probs = normal(len(routing_map), HIDDEN, seed=0), normal(*routing_map.shape, seed=1)
    theirs = moe_utils.permute(x, routing_map, probs=probs, num_out_tokens=rows, drop_and_pad=True)
    ours = kernels[0].function(x, routing_map, probs, num_rows=rows)
    for got, want in zip(ours, theirs, strict=True):
        assert torch.equal(got, want)
    there = moe_utils.unpermute(
        theirs[0], theirs[2], x.shape, probs=probs, routing_map=routing_map, drop_and_pad=True
    )
    back = kernels[1].function(ours[0], ours[2], probs, routing_map, num_tokens=len(routing_map))
    torch.testing.assert_close(back, there)


def test_wide_probs_stay_wide_and_rows_narrow(kernels: tuple[Provider, Provider]) -> None:
    """Megatron's moe_router_dtype: float32 probs for bfloat16 tokens."""
    routing_map = MAPS["top 2"]
    x = normal(len(routing_map), HIDDEN, seed=0).bfloat16()
    probs = normal(*routing_map.shape, seed=1).float()
    theirs = moe_utils.permute(x, routing_map, probs=probs)
    ours = kernels[0].function(x, routing_map, probs)
    for got, want in zip(ours, theirs, strict=True):
        assert got.dtype == want.dtype
        assert torch.equal(got, want)
    there = moe_utils.unpermute(theirs[0], theirs[2], x.shape, probs=probs, routing_map=routing_map)
    back = kernels[1].function(ours[0], ours[2], probs, routing_map, num_tokens=len(routing_map))
    assert back.dtype == there.dtype == torch.bfloat16
    torch.testing.assert_close(back, there)
