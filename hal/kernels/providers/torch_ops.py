"""Kernels that are torch operators, on any device that torch serves."""

import torch
import torch.nn.functional as F

from hal.kernels.provider import Provider


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """torch takes the statistics of narrow types in float32 by itself."""
    return F.rms_norm(x, weight.shape, weight, eps)


def swiglu(x: torch.Tensor) -> torch.Tensor:
    """In the type of `x`: rounds the gate before the product."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def rotary(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, interleaved: bool = False
) -> torch.Tensor:
    """By halves (or every other coordinate), without a turned copy of `x`."""
    rotary_dim = cos.shape[-1]
    (x1, x2), (cos1, cos2), (sin1, sin2) = (
        _pairs(part, interleaved) for part in (x[..., :rotary_dim], cos, sin)
    )
    first, second = (x1 * cos1 - x2 * sin1).to(x.dtype), (x2 * cos2 + x1 * sin2).to(x.dtype)
    turned = (torch.stack((first, second), dim=-1).flatten(-2),) if interleaved else (first, second)
    return torch.cat((*turned, x[..., rotary_dim:]), dim=-1)


def _pairs(x: torch.Tensor, interleaved: bool) -> tuple[torch.Tensor, torch.Tensor]:
    if interleaved:
        return x[..., ::2], x[..., 1::2]
    first, second = x.chunk(2, dim=-1)
    return first, second


PROVIDERS = (
    Provider("rms_norm", "torch", rms_norm),
    Provider("swiglu", "torch", swiglu),
    Provider("rotary", "torch", rotary),
)
