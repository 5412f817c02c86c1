"""Attention by torch's `scaled_dot_product_attention`, which takes the device's own fused kernel where there is one."""

import functools

import torch
import torch.nn.functional as F

from hal.kernels.attention import each_sequence
from hal.kernels.provider import Provider


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
    """Packed sequences one after the other: exact on every device, at the price of one launch each."""
    dense = functools.partial(_dense, scale=softmax_scale, causal=causal, dropout_p=dropout_p)
    if cu_seqlens is None:
        return dense(query, key, value)
    return each_sequence(dense, query, key, value, cu_seqlens)


def _dense(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, causal: bool, dropout_p: float
) -> torch.Tensor:
    q, k, v = (tensor.transpose(1, 2) for tensor in (query, key, value))
    grouped = q.shape[1] != k.shape[1]
    output = F.scaled_dot_product_attention(
        q, k, v, dropout_p=dropout_p, is_causal=causal, scale=scale, enable_gqa=grouped
    )
    return output.transpose(1, 2)


PROVIDERS = (Provider("attention", "torch_sdpa", attention),)
