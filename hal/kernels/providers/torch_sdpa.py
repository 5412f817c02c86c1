"""Attention by torch's `scaled_dot_product_attention`, which takes the device's own fused kernel where there is one."""

import functools

import torch
import torch.nn.functional as F

from hal.kernels.attention import each_sequence, visible
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
    cu_seqlens_k: torch.Tensor | None = None,
    max_seqlen_k: int | None = None,
) -> torch.Tensor:
    """Packed sequences one after the other: exact on every device, at the price of one launch each."""
    dense = functools.partial(_dense, scale=softmax_scale, causal=causal, dropout_p=dropout_p)
    if cu_seqlens is None:
        return dense(query, key, value)
    return each_sequence(dense, query, key, value, cu_seqlens, cu_seqlens_k)


def _dense(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, causal: bool, dropout_p: float
) -> torch.Tensor:
    # `is_causal` of torch lets query i see keys 0..i also where keys are more: it is ours for equal lengths only.
    square = query.shape[1] == key.shape[1]
    mask = _added(visible(query, key), query.dtype) if causal and not square else None
    q, k, v = (tensor.transpose(1, 2) for tensor in (query, key, value))
    output = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        dropout_p=dropout_p,
        is_causal=causal and square,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return output.transpose(1, 2)


def _added(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where a key is seen, else -inf: what torch makes of a bool mask inside, so that no device has to."""
    return torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, float("-inf"))


PROVIDERS = (Provider("attention", "torch_sdpa", attention),)
