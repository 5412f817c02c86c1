"""Root mean square layer normalization (Zhang and Sennrich 2019, arXiv:1910.07467, equation 4)."""

from typing import Protocol

import torch

from hal.kernels.sample import Sample, normal


class RmsNorm(Protocol):
    """Signature of `reference`."""

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor: ...


def reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    `x` [..., hidden_size], `weight` [hidden_size] -> [..., hidden_size] in the type of `x`. Statistics and the
    product are taken in float32 at least, and rounded once, at the end."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale * weight).to(x.dtype)


def samples() -> list[Sample]:
    """Rows of different size, and the [sequence, batch, hidden] layout."""
    return [
        Sample("rows", (normal(5, 32, seed=0), normal(32, seed=1)), {"eps": 1e-6}),
        Sample("sequence and batch", (3 * normal(7, 2, 32, seed=2), normal(32, seed=3)), {"eps": 1e-5}),
        Sample("tiny values", (1e-3 * normal(4, 32, seed=4), normal(32, seed=5)), {"eps": 1e-6}),
    ]
