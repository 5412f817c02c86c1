"""Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762, equation 1), grouped-query, dense or packed."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F

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
        cu_seqlens_k: torch.Tensor | None = None,
        max_seqlen_k: int | None = None,
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
    cu_seqlens_k: torch.Tensor | None = None,
    max_seqlen_k: int | None = None,
) -> torch.Tensor:
    """softmax(softmax_scale * query key^T) value, head by head.

    Dense: `query` [batch, q_len, heads, head_dim], `key` [batch, k_len, kv_heads, head_dim], `value`
    [batch, k_len, kv_heads, value_head_dim] -> [batch, q_len, heads, value_head_dim].
    Packed: the same without the batch, tokens of all sequences in a row, with `cu_seqlens` int32 [sequences + 1],
    the cumulative lengths from 0 to the number of tokens; `max_seqlen` is the longest of them, where known.
    `cu_seqlens_k` and `max_seqlen_k` are those of the keys, None: the same as the queries'.

    Query head h reads key head h // (heads // kv_heads). `causal` is aligned to the end: query i of a sequence sees
    keys 0 .. k_len - q_len + i, so that the last one sees all, and q_len must not exceed k_len. Softmax in float32 at
    least. `dropout_p` drops probabilities; which ones differs between providers. Inputs may be slices of a larger
    tensor."""
    del max_seqlen, max_seqlen_k
    if cu_seqlens is not None:
        options = {"softmax_scale": softmax_scale, "causal": causal, "dropout_p": dropout_p}
        dense = functools.partial(reference, **options)
        return each_sequence(dense, query, key, value, cu_seqlens, cu_seqlens_k)
    group = query.shape[2] // key.shape[2]
    wide = torch.promote_types(query.dtype, torch.float32)
    q, k, v = (tensor.to(wide).transpose(1, 2) for tensor in (query, key, value))
    scores = softmax_scale * q @ k.repeat_interleave(group, dim=1).transpose(2, 3)
    if causal:
        scores = scores.masked_fill(~visible(query, key), float("-inf"))
    probabilities = F.dropout(scores.softmax(dim=-1), dropout_p)
    return (probabilities @ v.repeat_interleave(group, dim=1)).transpose(1, 2).to(query.dtype)


def visible(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """bool [q_len, k_len]: which keys a query sees in causal attention over dense rows.

    Raises ValueError where there are more queries than keys: the first ones would see nothing."""
    q_len, k_len = query.shape[1], key.shape[1]
    if q_len > k_len:
        raise ValueError(
            f"causal attention of {q_len} queries over {k_len} keys: the first queries see no key"
        )
    return torch.ones(q_len, k_len, dtype=torch.bool, device=query.device).tril(k_len - q_len)


def each_sequence(
    dense: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens: torch.Tensor,
    cu_seqlens_k: torch.Tensor | None = None,
) -> torch.Tensor:
    """Packed attention by dense attention on one sequence after the other."""
    # `split` and not slices: the backward of a slice fills a tensor of all tokens, once a sequence.
    lengths = cast(list[int], cu_seqlens.diff().tolist())
    lengths_k = lengths if cu_seqlens_k is None else cast(list[int], cu_seqlens_k.diff().tolist())
    parts = torch.split(query, lengths), torch.split(key, lengths_k), torch.split(value, lengths_k)
    return torch.cat([dense(q[None], k[None], v[None])[0] for q, k, v in zip(*parts, strict=True)])


def samples() -> list[Sample]:
    """Dense and packed; grouped, single and equal heads; unequal value heads, those of DeepSeek-V3 among them; fewer
    queries than keys; sequences of one token; slices of one projection."""

    def call(
        name: str,
        *leading: int,
        k_len: int | None = None,
        heads: int = 4,
        kv_heads: int = 2,
        dim: int = 8,
        value_dim: int = 8,
        **options: Any,
    ) -> Sample:
        of_keys = leading if k_len is None else (*leading[:-1], k_len)
        tensors = (
            normal(*leading, heads, dim, seed=0),
            normal(*of_keys, kv_heads, dim, seed=1),
            normal(*of_keys, kv_heads, value_dim, seed=2),
        )
        facts = replace(
            SMALL,
            head_dim=dim,
            num_heads=heads,
            num_kv_heads=kv_heads,
            value_head_dim=value_dim,
            packed="cu_seqlens" in options,
            context_parallel_size=1 if k_len is None else 2,
        )
        return Sample(name, tensors, {"softmax_scale": dim**-0.5, **options}, facts)

    packed: dict[str, Any] = {"cu_seqlens": torch.tensor([0, 5, 6, 17], dtype=torch.int32), "max_seqlen": 11}
    of_keys: dict[str, Any] = {
        "cu_seqlens_k": torch.tensor([0, 9, 10, 24], dtype=torch.int32),
        "max_seqlen_k": 14,
    }
    mla: dict[str, Any] = {"kv_heads": 4, "dim": 192, "value_dim": 128}
    return [
        call("dense grouped", 2, 9),
        call("dense equal heads", 1, 5, kv_heads=4),
        call("dense single key head", 2, 6, kv_heads=1),
        call("dense unequal value heads", 2, 7, value_dim=6),
        call("dense latent heads of 192 and 128", 1, 12, **mla),
        call("dense longer than a block", 1, 130),
        call("dense not causal", 2, 6, causal=False),
        call("dense one token", 1, 1),
        call("dense fewer queries than keys", 2, 5, k_len=12),
        call("dense one query over all keys", 2, 1, k_len=9),
        call("dense fewer queries than keys, latent heads", 1, 4, k_len=9, **mla),
        call("dense fewer queries than keys, not causal", 2, 5, k_len=12, causal=False),
        call("packed grouped", 17, **packed),
        call("packed one sequence", 17, cu_seqlens=torch.tensor([0, 17], dtype=torch.int32)),
        call("packed unequal value heads", 17, value_dim=6, **packed),
        call("packed latent heads of 192 and 128", 17, **mla, **packed),
        call("packed fewer queries than keys", 17, k_len=24, **packed, **of_keys),
        _slices(call("dense slices of one projection", 2, 9)),
        _slices(call("packed slices of one projection", 17, **packed)),
    ]


def _slices(sample: Sample) -> Sample:
    """The same call on query, key and value that lie side by side in one tensor, as a fused projection leaves them."""
    together = torch.cat(list(sample.tensors), dim=-2)
    return replace(
        sample, tensors=torch.split(together, [tensor.shape[-2] for tensor in sample.tensors], dim=-2)
    )
