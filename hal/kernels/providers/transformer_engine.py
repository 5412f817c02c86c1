"""Normalization and gated activation by TransformerEngine, straight from its extension, without its modules.

Not run by us so far: no GPU. Calls were checked against the sources of TransformerEngine 2.1.0 and 2.20.2. Its rotary
embedding is left out, for it takes angles instead of their cosines and sines and gives them no gradient; its attention
and grouped products too, which are modules with weights, settings in the environment and state of their own.
"""

from typing import Any

import torch

from hal.kernels.provider import Provider
from hal.kernels.providers.packages import CudaPackage

PACKAGE = CudaPackage(
    "transformer-engine", "transformer_engine.pytorch", at_least="2.1", below="3", extra="[pytorch]"
)


def _extension() -> Any:
    """`transformer_engine_torch`, which can be imported once the package is."""
    PACKAGE.load()
    return __import__("transformer_engine_torch")


def _type_code(dtype: torch.dtype) -> Any:
    PACKAGE.load()
    return __import__("transformer_engine.pytorch.constants", fromlist=["TE_DType"]).TE_DType[dtype]


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The weight in the type of `x`."""
    return _RmsNorm.apply(x, weight.to(x.dtype), eps)  # pyright: ignore


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        rows = x.contiguous().view(-1, x.shape[-1])
        output, _, scale = _extension().rmsnorm_fwd(
            rows, weight.contiguous(), eps, None, None, _type_code(x.dtype), _ALL_PROCESSORS, _AROUND_ZERO
        )
        ctx.save_for_backward(rows, scale, weight)
        return output.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, scale, weight = ctx.saved_tensors
        d_output = gradients[0].contiguous().view(rows.shape)
        d_rows, d_weight = _extension().rmsnorm_bwd(
            d_output, rows, scale, weight, _ALL_PROCESSORS, _AROUND_ZERO
        )
        return d_rows.view(gradients[0].shape), d_weight, None


_ALL_PROCESSORS = 0
"""sm_margin: how many are left to others."""
_AROUND_ZERO = False
"""zero_centered_gamma: weights are stored less 1."""


def swiglu(x: torch.Tensor) -> torch.Tensor:
    """Keeps nothing but `x` for the gradient."""
    return _Swiglu.apply(x)  # pyright: ignore


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        rows = x.contiguous().view(-1, x.shape[-1])
        ctx.save_for_backward(rows)
        return _extension().swiglu(rows, _NOT_QUANTIZED).view(*x.shape[:-1], x.shape[-1] // 2)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (rows,) = ctx.saved_tensors
        d_output = gradients[0].contiguous().view(-1, rows.shape[1] // 2)
        d_rows = _extension().dswiglu(d_output, rows, _NOT_QUANTIZED)
        return d_rows.view(*gradients[0].shape[:-1], rows.shape[1])


_NOT_QUANTIZED = None

PROVIDERS = (
    Provider("rms_norm", "transformer_engine", rms_norm, PACKAGE.why_not),
    Provider("swiglu", "transformer_engine", swiglu, PACKAGE.why_not),
)
