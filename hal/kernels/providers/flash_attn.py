"""Attention by the package flash-attn, version 2 (Dao 2023, arXiv:2307.08691): dense and packed.

Not run by us so far: no GPU. Calls were checked against the sources of flash-attn 2.5.8 and 2.8.3.post2, whose causal
mask is aligned to the end as the contract wants it.
"""

import torch

from hal.accelerator import Accelerator
from hal.kernels.facts import KernelFacts
from hal.kernels.provider import Provider
from hal.kernels.providers.packages import CudaPackage

PACKAGE = CudaPackage(
    "flash-attn",
    "flash_attn",
    at_least="2.5.5",  # from there on heads up to 256 long have gradients on every GPU
    below="3",
    dtypes=(torch.float16, torch.bfloat16),
    capability=(8, 0),
)


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
    """Longest lengths that the caller does not know are fetched from the device, at the price of a wait."""
    kernels = PACKAGE.load()
    options = {
        "dropout_p": dropout_p,
        "softmax_scale": softmax_scale,
        "causal": causal,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    if cu_seqlens is None:
        if causal and query.shape[1] > key.shape[1]:
            raise ValueError(
                f"causal attention of {query.shape[1]} queries over {key.shape[1]} keys: the first queries see no key"
            )
        return kernels.flash_attn_func(query, key, value, **options)
    longest = _longest(cu_seqlens) if max_seqlen is None else max_seqlen
    if cu_seqlens_k is None:
        cu_seqlens_k, longest_k = cu_seqlens, longest
    else:
        longest_k = _longest(cu_seqlens_k) if max_seqlen_k is None else max_seqlen_k
    return kernels.flash_attn_varlen_func(
        query, key, value, cu_seqlens, cu_seqlens_k, longest, longest_k, **options
    )


def _longest(cu_seqlens: torch.Tensor) -> int:
    return int(cu_seqlens.diff().max())


def _why_not(accelerator: Accelerator, facts: KernelFacts) -> str | None:
    beyond = None
    if facts.values_differ:
        beyond = (
            f"wants value heads as long as the others: {facts.value_head_dim} and {facts.head_dim} differ"
        )
    elif facts.head_dim > 256:
        beyond = f"takes heads up to 256 long, not {facts.head_dim}"
    return PACKAGE.why_not(accelerator, facts, beyond)


PROVIDERS = (Provider("attention", "flash_attn", attention, _why_not),)
