"""Mixture of experts: rows to experts, the experts' products, and back."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hal.kernels import grouped_matmul, moe_permute, moe_unpermute
from hal.kernels.moe_permute import routing
from hal.kernels.providers import torch_moe
from hal.kernels.sample import normal

PERMUTE = [torch_moe.moe_permute, moe_permute.reference]
UNPERMUTE = [torch_moe.moe_unpermute, moe_unpermute.reference]
MATMUL = [torch_moe.grouped_mm, torch_moe.grouped_matmul, grouped_matmul.reference]
TOKENS, EXPERTS, HIDDEN = 12, 6, 16


def named(function: Callable[..., Any]) -> str:
    return f"{function.__module__.rsplit('.', 1)[-1]}.{function.__name__}"


@pytest.mark.parametrize("permute", PERMUTE, ids=named)
def test_rows_are_sorted_by_expert_and_inside_an_expert_by_token(permute: Callable[..., Any]) -> None:
    x = torch.tensor([[0.0], [10.0], [20.0]])
    routing_map = torch.tensor([[False, True], [True, True], [True, False]])
    rows, probs, row_ids = permute(x, routing_map, torch.arange(6.0).view(3, 2))
    assert row_ids.tolist() == [1, 2, 0, 1]
    assert rows.flatten().tolist() == [10, 20, 0, 10]
    assert probs.tolist() == [2, 4, 1, 3]


@pytest.mark.parametrize("unpermute", UNPERMUTE, ids=named)
@pytest.mark.parametrize("permute", PERMUTE, ids=named)
def test_there_and_back_is_each_token_times_its_number_of_experts(
    permute: Callable[..., Any], unpermute: Callable[..., Any]
) -> None:
    x, routing_map = normal(TOKENS, HIDDEN, seed=0), routing(TOKENS, EXPERTS, 3, seed=1)
    routing_map[4] = False
    rows, _, row_ids = permute(x, routing_map)
    back = unpermute(rows, row_ids, num_tokens=TOKENS)
    torch.testing.assert_close(back, x * routing_map.sum(dim=1, keepdim=True))
    assert not back[4].any(), "a dropped token is zero"


@pytest.mark.parametrize("unpermute", UNPERMUTE, ids=named)
def test_narrow_sums_are_rounded_once(unpermute: Callable[..., Any]) -> None:
    """In bfloat16 itself, 256 + 1 = 256: a sum of ones gets no further."""
    rows, row_ids = torch.ones(300, 4, dtype=torch.bfloat16), torch.zeros(300, dtype=torch.int64)
    assert unpermute(rows, row_ids, num_tokens=2)[0].tolist() == [300] * 4


def test_gradients_of_copied_tokens_are_rounded_once() -> None:
    x = torch.zeros(1, 4, dtype=torch.bfloat16, requires_grad=True)
    rows, _, _ = torch_moe.moe_permute(x, torch.ones(1, 300, dtype=torch.bool))
    rows.backward(torch.ones_like(rows))
    assert x.grad is not None
    assert x.grad.tolist() == [[300] * 4]


@pytest.mark.parametrize("unpermute", UNPERMUTE, ids=named)
def test_probs_without_their_map_are_refused(unpermute: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="routing_map"):
        unpermute(torch.ones(2, 4), torch.arange(2), torch.ones(2, 1), num_tokens=2)


class Waits(TorchDispatchMode):
    """Names of operators that make the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("nonzero", "masked_select", "_local_scalar_dense", "repeat_interleave", "bincount"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def test_nobody_waits_for_the_device_where_the_number_of_rows_is_known() -> None:
    routing_map = routing(TOKENS, EXPERTS, 2, seed=1)
    x = normal(TOKENS, HIDDEN, seed=0).requires_grad_()
    probs = normal(TOKENS, EXPERTS, seed=2).requires_grad_()
    with Waits() as seen:
        rows, row_probs, row_ids = torch_moe.moe_permute(x, routing_map, probs, num_rows=2 * TOKENS)
        assert row_probs is not None
        tokens = torch_moe.moe_unpermute(
            rows * row_probs[:, None], row_ids, probs, routing_map, num_tokens=TOKENS
        )
        tokens.backward(torch.ones_like(tokens))
    assert seen.names == []
    with Waits() as seen:
        torch_moe.moe_permute(x, routing_map)
    assert seen.names == ["nonzero"]


@pytest.mark.parametrize("matmul", MATMUL, ids=named)
def test_experts_without_rows_have_a_gradient_of_zero(matmul: Callable[..., Any]) -> None:
    weight = torch.randn(4, HIDDEN, 8, requires_grad=True)
    for counts in ([0, 5, 0, 2], [0, 0, 0, 0]):
        x = torch.randn(sum(counts), HIDDEN, requires_grad=True)
        product = matmul(x, weight, torch.tensor(counts))
        assert product.shape == (sum(counts), 8)
        of_x, of_weight = torch.autograd.grad(product.sum(), (x, weight))  # an expanded gradient
        assert of_x.shape == x.shape
        assert of_weight.flatten(1).any(dim=1).tolist() == [count > 0 for count in counts]


@pytest.mark.parametrize("matmul", MATMUL, ids=named)
def test_a_frozen_weight_costs_no_gradient(matmul: Callable[..., Any]) -> None:
    x, weight = torch.randn(7, HIDDEN, requires_grad=True), torch.randn(2, HIDDEN, 8)
    matmul(x, weight, torch.tensor([3, 4])).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[:3], weight[0].sum(dim=1).expand(3, -1))


def test_experts_by_rows_compute_what_a_loop_over_tokens_computes() -> None:
    """The layer of Shazeer et al. (2017), equation 1: y = sum over chosen experts of prob * expert(x)."""
    x, routing_map = normal(TOKENS, HIDDEN, seed=0), routing(TOKENS, EXPERTS, 2, seed=1)
    probs, weight = normal(TOKENS, EXPERTS, seed=2), normal(EXPERTS, HIDDEN, HIDDEN, seed=3)
    rows, _, row_ids = torch_moe.moe_permute(x, routing_map)
    products = torch_moe.grouped_matmul(rows, weight, routing_map.sum(dim=0))
    layer = torch_moe.moe_unpermute(products, row_ids, probs, routing_map, num_tokens=TOKENS)
    for token in range(TOKENS):
        chosen = routing_map[token].nonzero()[:, 0]
        wanted = sum(probs[token, expert] * (x[token] @ weight[expert]) for expert in chosen)
        torch.testing.assert_close(layer[token], wanted)
