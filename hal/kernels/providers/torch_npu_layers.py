"""Normalization, rotary embedding and gated activation by torch_npu's fused operators, with torch_npu's gradients."""

from collections.abc import Sequence
from typing import Any, cast

import torch

from hal.accelerator import Accelerator
from hal.kernels.facts import KernelFacts
from hal.kernels.provider import Provider
from hal.kernels.providers import torch_npu_requirements

_npu: Any = torch.ops.npu


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The operator wants the weight in the type of `x`."""
    return _npu.npu_rms_norm(x, weight.to(x.dtype), eps)[0]


def _why_not_rms_norm(accelerator: Accelerator, facts: KernelFacts) -> str | None:
    return torch_npu_requirements.why_not(accelerator, facts, "npu_rms_norm")


def swiglu(x: torch.Tensor) -> torch.Tensor:
    """The gate is the first half here as there."""
    return _npu.npu_swiglu(x, -1)


def _why_not_swiglu(accelerator: Accelerator, facts: KernelFacts) -> str | None:
    return torch_npu_requirements.why_not(accelerator, facts, "npu_swiglu")


_MOST = 999
"""Heads, and rows of a batch; where pairs are interleaved, heads of all rows together."""
_LONGEST_HEAD = 894


def rotary(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, interleaved: bool = False
) -> torch.Tensor:
    """The operator turns all of its input, [sequence, batch, heads, rotary_dim], by angles of the same type;
    batches beyond its limit are turned in pieces."""
    rotary_dim = cos.shape[-1]
    wide = torch.promote_types(x.dtype, cos.dtype)
    mode, cos, sin = "interleave" if interleaved else "half", cos.to(wide), sin.to(wide)
    rows = _MOST // x.shape[2] if interleaved else _MOST
    pieces = cast(Sequence[torch.Tensor], x[..., :rotary_dim].to(wide).split(rows, dim=1))
    turned = [_npu.npu_rotary_mul(piece.contiguous(), cos, sin, mode) for piece in pieces]
    whole = (turned[0] if len(turned) == 1 else torch.cat(turned, dim=1)).to(x.dtype)
    return whole if rotary_dim == x.shape[-1] else torch.cat((whole, x[..., rotary_dim:]), dim=-1)


def _why_not_rotary(accelerator: Accelerator, facts: KernelFacts) -> str | None:
    if reason := torch_npu_requirements.why_not(accelerator, facts, "npu_rotary_mul"):
        return reason
    if facts.num_heads > _MOST:
        return f"turns up to {_MOST} heads, not {facts.num_heads}"
    if facts.head_dim > _LONGEST_HEAD:
        return f"turns heads up to {_LONGEST_HEAD} long, not {facts.head_dim}"
    return None


PROVIDERS = (
    Provider("rms_norm", "torch_npu", rms_norm, _why_not_rms_norm),
    Provider("swiglu", "torch_npu", swiglu, _why_not_swiglu),
    Provider("rotary", "torch_npu", rotary, _why_not_rotary),
)
