"""npu_swiglu: silu(first half) * second half."""

import torch

from hal.testing.virtual_npu.kernels.host import on_host
from hal.testing.virtual_npu.kernels.refusals import FLOATS, refuse, refuse_other_shape, refuse_other_types


@on_host
def npu_swiglu(input: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """-> half as long as `input` along `dim`."""
    gate, up = _halves("npu_swiglu", input, dim)
    return (torch.nn.functional.silu(gate) * up).to(input.dtype)


@on_host
def npu_swiglu_backward(grad_output: torch.Tensor, input: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """-> gradient of `input`."""
    gate, up = _halves("npu_swiglu_backward", input, dim)
    refuse_other_shape("npu_swiglu_backward", "grad_output", grad_output, gate.shape, "half of 'input'")
    grad, sigmoid = grad_output.float(), torch.sigmoid(gate)
    of_gate = grad * up * sigmoid * (1 + gate * (1 - sigmoid))
    return torch.cat([of_gate, grad * gate * sigmoid], dim).to(input.dtype)


def _halves(operator: str, input: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    refuse_other_types(operator, FLOATS, input=input)
    if not -input.dim() <= dim < input.dim():
        refuse(operator, "dim", dim, f"a dimension of 'input', which has {input.dim()}")
    if input.shape[dim] % 2:
        refuse(operator, "input", f"of shape {list(input.shape)}", f"an even size in dimension {dim}")
    first, second = input.float().chunk(2, dim)
    return first, second
