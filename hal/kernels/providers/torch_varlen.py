"""Attention by torch's own variable-length kernel (`torch.nn.attention.varlen`): packed sequences in one launch."""

import inspect
from importlib.util import find_spec

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
) -> torch.Tensor:
    """Dense batches go to `scaled_dot_product_attention`, which is the same flash attention there."""
    if cu_seqlens is None:
        return torch_sdpa.attention(
            query, key, value, softmax_scale=softmax_scale, causal=causal, dropout_p=dropout_p
        )
    if dropout_p:
        raise ValueError(
            f"varlen_attn has no dropout, and dropout_p is {dropout_p}; select attention=torch_sdpa"
        )
    from torch.nn.attention.varlen import varlen_attn

    longest = int(cu_seqlens.diff().max()) if max_seqlen is None else max_seqlen
    output = varlen_attn(
        query,
        key,
        value,
        cu_seqlens,
        cu_seqlens,
        longest,
        longest,
        scale=softmax_scale,
        window_size=(-1, 0) if causal else (-1, -1),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(output, torch.Tensor)  # a tuple only if auxiliary results are asked for
    return output


def _why_not(accelerator: Accelerator, facts: KernelFacts) -> str | None:
    if not facts.packed:
        return "only adds packed sequences to torch_sdpa, and there are none"
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
