"""npu_rms_norm: x / rms(x) * gamma over the last dimensions."""

import torch

from hal.testing.virtual_npu.kernels.host import on_host
from hal.testing.virtual_npu.kernels.refusals import FLOATS, refuse, refuse_other_shape, refuse_other_types


@on_host
def npu_rms_norm(
    input: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor]:
    """-> normed like `input`, and 1 / rms in float32 with ones for `gamma`'s dimensions."""
    _check("npu_rms_norm", input, gamma)
    wide = input.float()
    rstd = torch.rsqrt(wide.square().mean(_dims(gamma), keepdim=True) + epsilon)
    return (wide * rstd * gamma.float()).to(input.dtype), rstd


@on_host
def npu_rms_norm_backward(
    dy: torch.Tensor, input: torch.Tensor, gamma: torch.Tensor, rstd: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """-> gradients of `input` and, in float32, of `gamma`."""
    operator = "npu_rms_norm_backward"
    _check(operator, input, gamma)
    refuse_other_shape(operator, "dy", dy, input.shape, "the shape of 'input'")
    grad, normed, scale = dy.float(), input.float() * rstd, gamma.float()
    along = (grad * scale * normed).mean(_dims(gamma), keepdim=True)
    of_input = rstd * (grad * scale - normed * along)
    return of_input.to(input.dtype), (grad * normed).reshape(-1, *gamma.shape).sum(0)


def _dims(gamma: torch.Tensor) -> list[int]:
    return list(range(-gamma.dim(), 0))


def _check(operator: str, input: torch.Tensor, gamma: torch.Tensor) -> None:
    refuse_other_types(operator, FLOATS, input=input, gamma=gamma)
    if gamma.dtype not in (input.dtype, torch.float32):
        refuse(
            operator,
            "gamma",
            f"of type {gamma.dtype}",
            f"{input.dtype}, the type of 'input', or torch.float32",
        )
    if not 1 <= input.dim() <= 8:
        refuse(operator, "input", f"of {input.dim()} dimensions", "1 to 8")
    last = input.shape[max(0, input.dim() - gamma.dim()) :]
    refuse_other_shape(operator, "gamma", gamma, last, "the last dimensions of 'input'")
