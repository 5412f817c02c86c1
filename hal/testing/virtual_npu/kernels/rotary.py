"""npu_rotary_mul: x * cos + rotated(x) * sin (Su et al. 2021, arXiv:2104.09864, equation 34)."""

import torch

from hal.testing.virtual_npu.kernels.host import on_host
from hal.testing.virtual_npu.kernels.refusals import (
    FLOATS,
    refuse,
    refuse_if_given,
    refuse_other_shape,
    refuse_other_types,
    refuse_unequal_types,
    refuse_unless_among,
)

_MAX_HEAD_DIM = 896


@on_host
def npu_rotary_mul(
    input: torch.Tensor,
    r1: torch.Tensor,
    r2: torch.Tensor,
    rotary_mode: str = "half",
    rotate: torch.Tensor | None = None,
) -> torch.Tensor:
    """`r1`: cosines, `r2`: sines, of `input`'s shape or 1 where they repeat."""
    refuse_if_given("npu_rotary_mul", rotate=rotate)
    _check("npu_rotary_mul", input, r1, r2, rotary_mode)
    wide = input.float()
    return (wide * r1.float() + _rotated(wide, rotary_mode) * r2.float()).to(input.dtype)


@on_host
def npu_rotary_mul_backward(
    grad: torch.Tensor, input: torch.Tensor, r1: torch.Tensor, r2: torch.Tensor, rotary_mode: str = "half"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """-> gradients of `input`, `r1` and `r2`."""
    operator = "npu_rotary_mul_backward"
    _check(operator, input, r1, r2, rotary_mode)
    refuse_other_shape(operator, "grad", grad, input.shape, "the shape of 'input'")
    g, x = grad.float(), input.float()
    of_input = g * r1.float() + _rotated_back(g * r2.float(), rotary_mode)
    of_r1, of_r2 = (t.sum_to_size(r1.shape) for t in (g * x, g * _rotated(x, rotary_mode)))
    return of_input.to(input.dtype), of_r1.to(input.dtype), of_r2.to(input.dtype)


def _rotated(x: torch.Tensor, mode: str) -> torch.Tensor:
    """Each pair (a, b) becomes (-b, a): halves apart, or neighbours."""
    if mode == "half":
        first, second = x.chunk(2, -1)
        return torch.cat([-second, first], -1)
    return torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)


def _rotated_back(x: torch.Tensor, mode: str) -> torch.Tensor:
    """The transpose of the rotation, which is its inverse."""
    return -_rotated(x, mode)


def _check(operator: str, input: torch.Tensor, r1: torch.Tensor, r2: torch.Tensor, mode: str) -> None:
    refuse_other_types(operator, FLOATS, input=input)
    refuse_unequal_types(operator, input=input, r1=r1, r2=r2)
    refuse_unless_among(operator, "rotary_mode", mode, ("half", "interleave"))
    if input.dim() not in (3, 4):
        refuse(operator, "input", f"of shape {list(input.shape)}", "4 dimensions, or 3 without a batch")
    if input.shape[-1] % 2 or input.shape[-1] > _MAX_HEAD_DIM:
        refuse(
            operator,
            "input",
            f"of shape {list(input.shape)}",
            f"an even last size of at most {_MAX_HEAD_DIM}",
        )
    fits = r1.dim() == input.dim() and r1.shape[-1] == input.shape[-1]
    fits = fits and all(size in (1, whole) for size, whole in zip(r1.shape, input.shape, strict=True))
    if not fits:
        refuse(
            operator,
            "r1",
            f"of shape {list(r1.shape)}",
            f"{list(input.shape)}, or 1 in place of any but the last",
        )
    refuse_other_shape(operator, "r2", r2, r1.shape, "the shape of 'r1'")
