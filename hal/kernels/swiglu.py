"""Gated activation of a feed-forward layer (Shazeer 2020, arXiv:2002.05202, equation 6, without the products)."""

from typing import Protocol

import torch
import torch.nn.functional as F

from hal.kernels.sample import Sample, normal


class Swiglu(Protocol):
    """Signature of `reference`."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


def reference(x: torch.Tensor) -> torch.Tensor:
    """silu(first half) * second half of the last dimension.

    `x` [..., 2 * features] -> [..., features] in the type of `x`, computed in float32 at least, rounded once."""
    gate, up = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=-1)
    return (F.silu(gate) * up).to(x.dtype)


def samples() -> list[Sample]:
    """Rows, and the [sequence, batch, features] layout with values that saturate the gate."""
    return [
        Sample("rows", (normal(5, 24, seed=0),)),
        Sample("saturated", (8 * normal(6, 2, 16, seed=1),)),
    ]
