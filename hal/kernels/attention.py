"""Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762, equation 1), grouped-query, dense or packed."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F

from hal.accelerator import Accelerator
from hal.kernels.facts import KernelFacts
from hal.kernels.sample import SMALL, Sample, normal


class Attention(Protocol):
    """Signature of `reference`."""

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        softmax_scale: float,
        causal: bool = True,
        dropout_p: float = 0.0,
        cu_seqlens: torch.Tensor | None = None,
        max_seqlen: int | None = None,
    ) -> torch.Tensor: ...


def reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    softmax_scale: float,
    causal: bool = True,
    dropout_p: float = 0.0,
    cu_seqlens: torch.Tensor | None = None,
    max_seqlen: int | None = None,
) -> torch.Tensor:
    """softmax(softmax_scale * query key^T) value, head by head.

    Dense: `query` [batch, sequence, heads, head_dim], `key` [batch, sequence, kv_heads, head_dim], `value`
    [batch, sequence, kv_heads, value_head_dim] -> [batch, sequence, heads, value_head_dim].
    Packed: the same without the batch, tokens of all sequences in a row, with `cu_seqlens` int32 [sequences + 1],
    the cumulative lengths from 0 to the number of tokens; `max_seqlen` is the longest of them, where known.
    Query head h reads key head h // (heads // kv_heads). `causal`: token i sees tokens 0..i of its own sequence.
    Softmax in float32 at least. `dropout_p` drops probabilities; which ones differs between providers."""
    if cu_seqlens is not None:
        options = {"softmax_scale": softmax_scale, "causal": causal, "dropout_p": dropout_p}
        return each_sequence(functools.partial(reference, **options), query, key, value, cu_seqlens)
    group = query.shape[2] // key.shape[2]
    wide = torch.promote_types(query.dtype, torch.float32)
    q, k, v = (tensor.to(wide).transpose(1, 2) for tensor in (query, key, value))
    scores = softmax_scale * q @ k.repeat_interleave(group, dim=1).transpose(2, 3)
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    probabilities = F.dropout(scores.softmax(dim=-1), dropout_p)
    return (probabilities @ v.repeat_interleave(group, dim=1)).transpose(1, 2).to(query.dtype)


def why_not(accelerator: Accelerator, facts: KernelFacts) -> str | None:
    """What the contract leaves out."""
    if facts.context_parallel_size > 1:
        return (
            f"a call sees whole sequences, and context_parallel_size is {facts.context_parallel_size}; use 1"
        )
    return None


def each_sequence(
    dense: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens: torch.Tensor,
) -> torch.Tensor:
    """Packed attention by dense attention on one sequence after the other."""
    # `split` and not slices: the backward of a slice fills a tensor of all tokens, once a sequence.
    lengths = cast(list[int], cu_seqlens.diff().tolist())
    parts = [torch.split(tensor, lengths) for tensor in (query, key, value)]
    return torch.cat([dense(q[None], k[None], v[None])[0] for q, k, v in zip(*parts, strict=True)])


def samples() -> list[Sample]:
    """Dense and packed; grouped, single and equal heads; unequal value heads; sequences of one token."""

    def call(name: str, *leading: int, kv_heads: int = 2, value_dim: int = 8, **options: Any) -> Sample:
        tensors = (
            normal(*leading, 4, 8, seed=0),
            normal(*leading, kv_heads, 8, seed=1),
            normal(*leading, kv_heads, value_dim, seed=2),
        )
        facts = replace(
            SMALL, num_kv_heads=kv_heads, value_head_dim=value_dim, packed="cu_seqlens" in options
        )
        return Sample(name, tensors, {"softmax_scale": 8**-0.5, **options}, facts)

    packed: dict[str, Any] = {"cu_seqlens": torch.tensor([0, 5, 6, 17], dtype=torch.int32), "max_seqlen": 11}
    return [
        call("dense grouped", 2, 9),
        call("dense equal heads", 1, 5, kv_heads=4),
        call("dense single key head", 2, 6, kv_heads=1),
        call("dense unequal value heads", 2, 7, value_dim=6),
        call("dense longer than a block", 1, 130),
        call("dense not causal", 2, 6, causal=False),
        call("packed grouped", 17, **packed),
        call("packed unequal value heads", 17, value_dim=6, **packed),
    ]
