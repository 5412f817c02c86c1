"""Attention by torch's own variable-length kernel (`torch.nn.attention.varlen`): packed sequences in one launch, and
fewer queries than keys without a mask."""

import inspect
from importlib.util import find_spec
from typing import cast

import torch

from hal.accelerator import Accelerator
from hal.kernels.facts import KernelFacts
from hal.kernels.provider import Provider
from hal.kernels.providers import torch_sdpa

_PARAMETERS = {"window_size", "scale", "enable_gqa"}
"""What the contract needs of `varlen_attn`; torch 2.10 has not all of it."""


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
    """Dense rows of equal lengths go to `scaled_dot_product_attention`, which is the same flash attention there."""
    if dropout_p:
        raise ValueError(
            f"varlen_attn has no dropout, and dropout_p is {dropout_p}; select attention=torch_sdpa"
        )
    if cu_seqlens is not None:
        if cu_seqlens_k is None:
            cu_seqlens_k, max_seqlen_k = cu_seqlens, max_seqlen
        longest = _longest(cu_seqlens, max_seqlen), _longest(cu_seqlens_k, max_seqlen_k)
        return _packed(query, key, value, (cu_seqlens, cu_seqlens_k), longest, softmax_scale, causal)
    if query.shape[1] == key.shape[1]:
        return torch_sdpa.attention(query, key, value, softmax_scale=softmax_scale, causal=causal)
    rows, longest = query.shape[0], (query.shape[1], key.shape[1])
    starts = [torch.arange(rows + 1, dtype=torch.int32, device=query.device) * length for length in longest]
    q, k, v = (tensor.flatten(0, 1) for tensor in (query, key, value))
    output = _packed(q, k, v, (starts[0], starts[1]), longest, softmax_scale, causal)
    return output.view(rows, query.shape[1], *output.shape[1:])


def _packed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cumulative: tuple[torch.Tensor, torch.Tensor],
    longest: tuple[int, int],
    scale: float,
    causal: bool,
) -> torch.Tensor:
    """Flash attention aligns its causal window to the end of both sequences, as the contract does."""
    from torch.nn.attention.varlen import varlen_attn

    output = varlen_attn(
        query,
        key,
        value,
        cumulative[0],
        cumulative[1],
        longest[0],
        longest[1],
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return cast(torch.Tensor, output)  # a tuple only if auxiliary results are asked for


def _longest(cumulative: torch.Tensor, known: int | None) -> int:
    return int(cumulative.diff().max()) if known is None else known


def _why_not(accelerator: Accelerator, facts: KernelFacts) -> str | None:
    if not facts.packed and facts.context_parallel_size == 1:
        return "only adds packed sequences and context parallelism to torch_sdpa, and there are neither"
    if accelerator.device_type != "cuda":
        return f"runs on CUDA only, and this is {accelerator.name}"
    if facts.dtype not in (torch.float16, torch.bfloat16):
        return f"takes torch.float16 and torch.bfloat16 only, not {facts.dtype}"
    if facts.dropout:
        return f"has no dropout, and dropout is {facts.dropout}"
    if facts.values_differ:
        return f"wants value heads as long as the others: {facts.value_head_dim} and {facts.head_dim} differ"
    if facts.head_dim > 256:
        return f"takes heads up to 256 long, not {facts.head_dim}"
    return _torch_lacks()


def _torch_lacks() -> str | None:
    if find_spec("torch.nn.attention.varlen") is None:
        return f"torch {torch.__version__} has no torch.nn.attention.varlen; torch 2.13 has"
    from torch.nn.attention.varlen import varlen_attn

    missing = _PARAMETERS - set(inspect.signature(varlen_attn).parameters)
    if missing:
        return f"varlen_attn of torch {torch.__version__} lacks {', '.join(sorted(missing))}; torch 2.13 has them"
    if torch.cuda.get_device_capability() < (8, 0):
        return "needs compute capability 8.0"
    return None


PROVIDERS = (Provider("attention", "torch_varlen", attention, _why_not),)
