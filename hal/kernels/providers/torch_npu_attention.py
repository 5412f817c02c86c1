"""Attention by torch_npu's `npu_fusion_attention`: dense batches in the layout BSND, packed sequences in TND."""

import functools
from typing import Any, cast

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from hal.accelerator import Accelerator
from hal.kernels.facts import KernelFacts
from hal.kernels.provider import Provider
from hal.kernels.providers import torch_npu_requirements

_npu: Any = torch.ops.npu

_CAUSAL_TO_THE_END = 3
"""The sparse mode whose mask is aligned to the last query and the last key, of each sequence."""
_MOST_HEADS = 256
_LONGEST_HEAD = 768
_MOST_SEQUENCES = 1024
"""Packed into one call; the documents say 2048 in one place, and this in another."""


def attention(
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
    """The operator wants lengths on the host: those of one tensor are fetched once, not layer after layer."""
    options: dict[str, Any] = {"scale": softmax_scale, "keep_prob": 1 - dropout_p}
    if causal:
        options |= {"atten_mask": _hidden(query.device), "sparse_mode": _CAUSAL_TO_THE_END}
    if cu_seqlens is None:
        layout, ends, ends_k = "BSND", [query.shape[1]], [key.shape[1]]
    else:
        layout, ends = "TND", _ends(cu_seqlens)
        ends_k = ends if cu_seqlens_k is None else _ends(cu_seqlens_k)
        _check_lengths(ends, ends_k, query, key)
        options |= {"actual_seq_qlen": ends, "actual_seq_kvlen": ends_k}
    if causal:
        _check_causal(ends, ends_k)
    q, k, v = (tensor.contiguous() for tensor in (query, key, value))
    return _npu.npu_fusion_attention(q, k, v, query.shape[-2], layout, **options)[0]


@functools.cache
def _hidden(device: torch.device) -> torch.Tensor:
    """What the causal modes want for every length: bool [2048, 2048], True = masked."""
    with torch.inference_mode(False):  # it outlives the call, and the next one may want gradients
        return torch.ones(2048, 2048, dtype=torch.bool, device=device).triu(1)


_known_ends = WeakTensorKeyDictionary()


def _ends(cu_seqlens: torch.Tensor) -> list[int]:
    """Where sequences end, on the host: cumulative lengths without the leading 0."""
    if cu_seqlens.is_inference():  # changes of such a tensor can't be seen
        return cast(list[int], cu_seqlens.tolist())[1:]
    version, ends = cast(tuple[int, list[int]], _known_ends.get(cu_seqlens, (-1, [])))
    if version != cu_seqlens._version:
        ends = cast(list[int], cu_seqlens.tolist())[1:]
        _known_ends[cu_seqlens] = cu_seqlens._version, ends
    return ends


def _check_lengths(ends: list[int], ends_k: list[int], query: torch.Tensor, key: torch.Tensor) -> None:
    """On the device, wrong ones would give wrong numbers."""
    found, wanted = (ends[-1:], ends_k[-1:]), ([query.shape[0]], [key.shape[0]])
    if found != wanted or len(ends) != len(ends_k):
        raise ValueError(
            f"packed attention: {len(ends)} sequences of queries end at {found[0]} and {len(ends_k)} of keys at "
            f"{found[1]}, and there are {query.shape[0]} and {key.shape[0]} tokens"
        )
    if len(ends) > _MOST_SEQUENCES:
        raise ValueError(f"npu_fusion_attention packs up to {_MOST_SEQUENCES} sequences, not {len(ends)}")


def _check_causal(ends: list[int], ends_k: list[int]) -> None:
    start = start_k = 0
    for end, end_k in zip(ends, ends_k, strict=True):
        if end - start > end_k - start_k:
            raise ValueError(
                f"causal attention of {end - start} queries over {end_k - start_k} keys: the first queries see no key"
            )
        start, start_k = end, end_k


def _why_not(accelerator: Accelerator, facts: KernelFacts) -> str | None:
    if reason := torch_npu_requirements.why_not(accelerator, facts, "npu_fusion_attention"):
        return reason
    if facts.num_heads > _MOST_HEADS:
        return f"takes up to {_MOST_HEADS} heads, not {facts.num_heads}"
    if facts.head_dim > _LONGEST_HEAD:
        return f"takes heads up to {_LONGEST_HEAD} long, not {facts.head_dim}"
    if (facts.value_head_dim or 0) > facts.head_dim:
        return f"wants value heads no longer than the others: {facts.value_head_dim} is more than {facts.head_dim}"
    return None


PROVIDERS = (Provider("attention", "torch_npu", attention, _why_not),)
