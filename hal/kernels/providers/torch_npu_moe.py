"""Mixture of experts by torch_npu: grouped matrix product, and the way of rows to their experts and back."""

from typing import Any, cast

import torch

from hal.accelerator import Accelerator
from hal.kernels.facts import KernelFacts
from hal.kernels.moe_unpermute import row_experts, row_probs
from hal.kernels.provider import Provider
from hal.kernels.providers import torch_npu_requirements

_npu: Any = torch.ops.npu


def grouped_matmul(x: torch.Tensor, weight: torch.Tensor, tokens_per_expert: torch.Tensor) -> torch.Tensor:
    """`npu_grouped_matmul` has no gradient of its own; `_GroupedMatmul` gives it one."""
    return _GroupedMatmul.apply(x, weight, tokens_per_expert)  # pyright: ignore


class _GroupedMatmul(torch.autograd.Function):
    """y_e = x_e W_e;  dx_e = dy_e W_e^T;  dW_e = x_e^T dy_e: three grouped products."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, tokens_per_expert: torch.Tensor
    ) -> torch.Tensor:
        ends = tokens_per_expert.cumsum(0).to(x.device)
        x, weight = x.contiguous(), _as_it_lies(weight)
        ctx.save_for_backward(x, weight, ends)
        counts = cast(list[int], tokens_per_expert.tolist())
        ctx.idle = [expert for expert, count in enumerate(counts) if not count]
        return _product(x, weight, ends)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, ends = ctx.saved_tensors
        d_y = gradients[0].contiguous()
        d_x = _product(d_y, weight.transpose(1, 2), ends) if ctx.needs_input_grad[0] else None
        d_weight = _weight_gradient(x, d_y, ends, ctx.idle) if ctx.needs_input_grad[1] else None
        return d_x, d_weight, None


_OVER_ROWS, _OVER_SUMS = 0, 2
"""group_type: experts share out the rows of the first factor, or what is summed over."""


def _product(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    if not x.shape[0]:
        return x.new_empty(0, weight.shape[2])
    return _grouped(x, weight, ends, _OVER_ROWS)


def _weight_gradient(x: torch.Tensor, d_y: torch.Tensor, ends: torch.Tensor, idle: list[int]) -> torch.Tensor:
    if not x.shape[0]:
        return x.new_zeros(ends.shape[0], x.shape[1], d_y.shape[1])
    gradient = _grouped(x.T, d_y, ends, _OVER_SUMS)
    if idle:  # a sum over no rows is 0; the operator's documents don't say that it writes one
        gradient.index_fill_(0, torch.tensor(idle, device=x.device), 0)
    return gradient


def _grouped(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor, group_type: int) -> torch.Tensor:
    # group_list_type 0: cumulative counts, the one form in which a single expert is allowed too.
    # split_item 2: one tensor comes out.
    return _npu.npu_grouped_matmul(
        [x], [weight], group_list=ends, split_item=2, group_type=group_type, group_list_type=0
    )[0]


def _as_it_lies(weight: torch.Tensor) -> torch.Tensor:
    """The operator takes matrices that lie in rows or in columns, without gaps."""
    return weight if weight.transpose(1, 2).is_contiguous() else weight.contiguous()


_MOST_EXPERTS = 1024
_WIDEST = 65535
"""Columns of a matrix."""


def _why_not_grouped_matmul(accelerator: Accelerator, facts: KernelFacts) -> str | None:
    if reason := torch_npu_requirements.why_not(accelerator, facts, "npu_grouped_matmul"):
        return reason
    if (facts.num_experts or 0) > _MOST_EXPERTS:
        return f"takes up to {_MOST_EXPERTS} experts, not {facts.num_experts}"
    widest = max(facts.hidden_size, 2 * (facts.expert_size or 0))
    return f"multiplies up to {_WIDEST} columns, not {widest}" if widest > _WIDEST else None


def moe_permute(
    x: torch.Tensor,
    routing_map: torch.Tensor,
    probs: torch.Tensor | None = None,
    *,
    num_rows: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """By `npu_moe_token_permute_with_routing_map`, which wants as many experts for one token as for another. Raises
    ValueError where they are seen to differ, which takes a look at the map: with `num_rows` given there is none."""
    tokens, per_token = x.shape[0], _experts_per_token(routing_map, num_rows)
    if not tokens * per_token:
        none = torch.empty(0, dtype=torch.int64, device=x.device)
        return x.index_select(0, none), None if probs is None else probs[none, none], none
    # The operator takes probs of this type only; wider ones beside bfloat16.
    inside = probs is not None and (probs.dtype, x.dtype) in _OPERATORS_PROBS
    permuted, permuted_probs, positions = _npu.npu_moe_token_permute_with_routing_map(
        x, routing_map, probs=probs if inside else None, num_out_tokens=tokens * per_token
    )
    # positions[i] is the row of token i // per_token: turned round, the token of each row.
    row_ids = torch.empty(tokens * per_token, dtype=torch.int64, device=x.device)
    row_ids[positions.long()] = torch.arange(tokens, device=x.device).repeat_interleave(per_token)
    if probs is None:
        return permuted, None, row_ids
    if not inside:
        permuted_probs = probs[row_ids, row_experts(routing_map, row_ids.shape[0])]
    return permuted, permuted_probs, row_ids


_OPERATORS_PROBS = {
    *((dtype, dtype) for dtype in torch_npu_requirements.DTYPES),
    (torch.float32, torch.bfloat16),
}


def _experts_per_token(routing_map: torch.Tensor, num_rows: int | None) -> int:
    tokens = routing_map.shape[0]
    if not tokens:
        return 0
    if num_rows is None:
        counts = routing_map.sum(dim=1)
        fewest, most = cast(list[int], torch.stack((counts.amin(), counts.amax())).tolist())
    else:
        fewest, most = num_rows // tokens, -(-num_rows // tokens)
    if fewest != most:
        raise ValueError(
            f"torch_npu's moe_permute: tokens have {fewest} to {most} experts, and it wants the same number for all; "
            "KernelFacts.experts_per_token must be None for such a model"
        )
    return most


def moe_unpermute(
    permuted: torch.Tensor,
    row_ids: torch.Tensor,
    probs: torch.Tensor | None = None,
    routing_map: torch.Tensor | None = None,
    *,
    num_tokens: int,
) -> torch.Tensor:
    """By `npu_moe_token_unpermute`, which wants as many rows for one token as for another; without probs it would
    take one, so that sums have probs of 1."""
    per_token, left = divmod(row_ids.shape[0], max(num_tokens, 1))
    if left:
        raise ValueError(
            f"torch_npu's moe_unpermute: {row_ids.shape[0]} rows are not the same number for each of {num_tokens} tokens; "
            "KernelFacts.experts_per_token must be None for such a model"
        )
    if not per_token:
        return permuted.new_zeros(num_tokens, permuted.shape[1]).index_add(0, row_ids, permuted)
    order = row_ids.argsort(stable=True)
    weights = (
        permuted.new_ones(row_ids.shape[0])
        if probs is None
        else row_probs(probs, row_ids, routing_map)[order]
    )
    return _npu.npu_moe_token_unpermute(permuted, order.int(), weights.view(num_tokens, per_token))


_MOST_PER_TOKEN = 511


def _why_not_rows(accelerator: Accelerator, facts: KernelFacts, operator: str) -> str | None:
    if reason := torch_npu_requirements.why_not(accelerator, facts, operator):
        return reason
    if facts.experts_per_token is None:
        return "wants the same number of experts for every token, and experts_per_token is not known"
    if facts.experts_per_token > _MOST_PER_TOKEN:
        return f"takes up to {_MOST_PER_TOKEN} experts a token, not {facts.experts_per_token}"
    return None


def _why_not_permute(accelerator: Accelerator, facts: KernelFacts) -> str | None:
    return _why_not_rows(accelerator, facts, "npu_moe_token_permute_with_routing_map")


def _why_not_unpermute(accelerator: Accelerator, facts: KernelFacts) -> str | None:
    return _why_not_rows(accelerator, facts, "npu_moe_token_unpermute")


PROVIDERS = (
    Provider("grouped_matmul", "torch_npu", grouped_matmul, _why_not_grouped_matmul),
    Provider("moe_permute", "torch_npu", moe_permute, _why_not_permute),
    Provider("moe_unpermute", "torch_npu", moe_unpermute, _why_not_unpermute),
)
