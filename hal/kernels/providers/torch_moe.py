"""Mixture of experts by torch operators: rows to experts and back, and the products of all experts."""

from typing import Any, cast

import torch
import torch.nn.functional as F

from hal.accelerator import Accelerator
from hal.kernels.facts import KernelFacts
from hal.kernels.moe_unpermute import row_experts, row_probs
from hal.kernels.provider import Provider


def moe_permute(
    x: torch.Tensor,
    routing_map: torch.Tensor,
    probs: torch.Tensor | None = None,
    *,
    num_rows: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Waits for the device only if `num_rows` is unknown."""
    if num_rows is None:
        row_ids = routing_map.T.nonzero()[:, 1]
    else:
        # The places of True come first, in their order, and `%` leaves the token of (expert, token).
        places = routing_map.T.flatten().to(torch.int8).argsort(descending=True, stable=True)[:num_rows]
        row_ids = places % max(routing_map.shape[0], 1)
    rows = cast(torch.Tensor, _CopyRows.apply(x, row_ids))
    if probs is None:
        return rows, None, row_ids
    experts = row_experts(routing_map, row_ids.shape[0])
    return rows, probs.flatten().gather(0, row_ids * probs.shape[1] + experts), row_ids


def moe_unpermute(
    permuted: torch.Tensor,
    row_ids: torch.Tensor,
    probs: torch.Tensor | None = None,
    routing_map: torch.Tensor | None = None,
    *,
    num_tokens: int,
) -> torch.Tensor:
    """Each row is read once; probs of a wider type than the rows take a wide copy of those."""
    if probs is None:
        return cast(torch.Tensor, _SumRows.apply(permuted, row_ids, num_tokens))
    weights = row_probs(probs, row_ids, routing_map)
    wide = torch.promote_types(permuted.dtype, torch.promote_types(probs.dtype, torch.float32))
    weighted = permuted.to(wide) * weights[:, None]
    return cast(torch.Tensor, _SumRows.apply(weighted, row_ids, num_tokens)).to(permuted.dtype)


class _CopyRows(torch.autograd.Function):
    """x[row_ids]. Its gradient is a sum of few rows a token: in float32 and in a fixed order, which the gradient of
    torch's own indexing is not."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, row_ids: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(row_ids)
        ctx.num_tokens = x.shape[0]
        return x.index_select(0, row_ids)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _sum_rows(gradients[0], ctx.saved_tensors[0], ctx.num_tokens), None


class _SumRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, row_ids: torch.Tensor, num_tokens: int) -> torch.Tensor:
        ctx.save_for_backward(row_ids)
        return _sum_rows(rows, row_ids, num_tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradients[0].index_select(0, ctx.saved_tensors[0]), None, None


def _sum_rows(rows: torch.Tensor, row_ids: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """[num_tokens, hidden]: a bag of rows a token, which torch adds up in float32 at least."""
    tokens, order = row_ids.sort(stable=True)
    starts = torch.searchsorted(tokens, torch.arange(num_tokens, device=tokens.device))
    return F.embedding_bag(order, rows.contiguous(), starts, mode="sum")


def grouped_matmul(x: torch.Tensor, weight: torch.Tensor, tokens_per_expert: torch.Tensor) -> torch.Tensor:
    """One product after the other."""
    return cast(torch.Tensor, _ExpertByExpert.apply(x, weight, tokens_per_expert.tolist()))  # pyright: ignore


class _ExpertByExpert(torch.autograd.Function):
    """Products are written where they belong; torch's own gradient would put them together by copies."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, counts: list[int]) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.counts = counts
        return _each_expert(x, weight, counts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        x, weight = ctx.saved_tensors
        of_x = (
            _each_expert(gradients[0], weight.transpose(1, 2), ctx.counts)
            if ctx.needs_input_grad[0]
            else None
        )
        of_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        if of_weight is not None:
            parts = torch.split(x, ctx.counts), torch.split(gradients[0], ctx.counts)
            for rows, gradient, target in zip(*parts, of_weight, strict=True):
                torch.mm(rows.T, gradient, out=target)
        return of_x, of_weight, None


def _each_expert(x: torch.Tensor, weight: torch.Tensor, counts: list[int]) -> torch.Tensor:
    product = x.new_empty(x.shape[0], weight.shape[2])
    for rows, expert, target in zip(
        torch.split(x, counts), weight, torch.split(product, counts), strict=True
    ):
        torch.mm(rows, expert, out=target)
    return product


def grouped_mm(x: torch.Tensor, weight: torch.Tensor, tokens_per_expert: torch.Tensor) -> torch.Tensor:
    """All experts in one launch of torch's own kernel."""
    if x.shape[0] == 0:
        return grouped_matmul(x, weight, tokens_per_expert)
    ends = tokens_per_expert.cumsum(0).to(x.device, torch.int32)
    product = F.grouped_mm(_aligned(x), _matrices(weight), offs=ends)
    if product.requires_grad:  # its backward refuses gradients that are expanded or slices
        product.register_hook(torch.Tensor.contiguous)
    return product


def _aligned(x: torch.Tensor) -> torch.Tensor:
    """Rows that begin on a boundary of 16 bytes. A single row counts as contiguous, whatever its stride."""
    if x.stride() == (x.shape[1], 1) and x.storage_offset() * x.itemsize % 16 == 0:
        return x
    return x.clone(memory_format=torch.contiguous_format)


def _matrices(weight: torch.Tensor) -> torch.Tensor:
    return weight if weight.is_contiguous() or weight.mT.is_contiguous() else weight.contiguous()


_GROUPED_MM_TYPES = {
    "cpu": (torch.float32, torch.bfloat16, torch.float16),
    "cuda": (torch.bfloat16,),
}


def _why_no_grouped_mm(accelerator: Accelerator, facts: KernelFacts) -> str | None:
    if not hasattr(F, "grouped_mm"):
        return f"torch {torch.__version__} has no grouped_mm; torch 2.13 has"
    types = _GROUPED_MM_TYPES.get(accelerator.device_type)
    if types is None:
        return f"torch has it for {' and '.join(_GROUPED_MM_TYPES)}, not for {accelerator.device_type}"
    if facts.dtype not in types:
        return f"takes {', '.join(map(str, types))} there, not {facts.dtype}"
    if facts.expert_size is not None:
        for size in (facts.hidden_size, facts.expert_size):
            if size * facts.dtype.itemsize % 16:
                return f"wants rows of a multiple of 16 bytes, not of {size} times {facts.dtype}"
    if accelerator.device_type == "cuda" and torch.cuda.get_device_capability() < (8, 0):
        return "needs compute capability 8.0"
    return None


PROVIDERS = (
    Provider("grouped_matmul", "torch_grouped_mm", grouped_mm, _why_no_grouped_mm),
    Provider("grouped_matmul", "torch", grouped_matmul),
    Provider("moe_permute", "torch", moe_permute),
    Provider("moe_unpermute", "torch", moe_unpermute),
)
