"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864, equation 34)."""

from typing import Protocol

import torch

from hal.kernels.sample import Sample, normal


class Rotary(Protocol):
    """Signature of `reference`."""

    def __call__(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, interleaved: bool = False
    ) -> torch.Tensor: ...


def reference(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, interleaved: bool = False
) -> torch.Tensor:
    """Turn pairs of coordinates by the angle of their position.

    `x` [sequence, batch, heads, dim]; `cos`, `sin` [sequence, 1, 1, rotary_dim], rotary_dim <= dim and even, laid
    out like the coordinates they multiply. Pairs are (i, i + rotary_dim / 2), or (2i, 2i + 1) if `interleaved`.
    Coordinates from rotary_dim on pass unchanged. Computed in the wider of the two types, returned in that of `x`.
    Packed sequences are [tokens, 1, heads, dim] with the angles of each token's own position."""
    rotary_dim = cos.shape[-1]
    turned, rest = x[..., :rotary_dim], x[..., rotary_dim:]
    if interleaved:
        other = torch.stack((-turned[..., 1::2], turned[..., ::2]), dim=-1).flatten(-2)
    else:
        first, second = turned.chunk(2, dim=-1)
        other = torch.cat((-second, first), dim=-1)
    return torch.cat(((turned * cos + other * sin).to(x.dtype), rest), dim=-1)


def angles(sequence: int, rotary_dim: int, *, interleaved: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin [sequence, 1, 1, rotary_dim] of positions 0, 1, ... with base 10000."""
    frequencies = 10000 ** -(torch.arange(0, rotary_dim, 2, dtype=torch.float64) / rotary_dim)
    angle = torch.arange(sequence, dtype=torch.float64)[:, None] * frequencies
    angle = angle.repeat_interleave(2, dim=-1) if interleaved else torch.cat((angle, angle), dim=-1)
    return angle.cos()[:, None, None], angle.sin()[:, None, None]


def samples() -> list[Sample]:
    """Both pairings, whole and partial."""
    return [
        Sample("halves", (normal(7, 2, 3, 8, seed=0), *angles(7, 8))),
        Sample("partial", (normal(5, 1, 2, 12, seed=1), *angles(5, 8))),
        Sample("pairs", (normal(7, 2, 3, 8, seed=2), *angles(7, 8, interleaved=True)), {"interleaved": True}),
    ]
