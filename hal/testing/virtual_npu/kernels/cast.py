"""npu_dtype_cast, which torch_npu calls itself, as in all-reduces of bool and uint8."""

import torch

from hal.testing.virtual_npu.kernels.host import on_host


@on_host
def _npu_dtype_cast(input: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """-> the same numbers as `dtype`."""
    return input.to(dtype)


@on_host
def _npu_dtype_cast_backward(grad: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """-> the gradient as the input's type."""
    return grad.to(dtype)
