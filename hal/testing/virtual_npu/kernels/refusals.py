"""What kernels refuse, in one form: operator, argument, what was found, what is wanted."""

from collections.abc import Collection
from typing import Any, NoReturn

import torch

FLOATS = (torch.float16, torch.bfloat16, torch.float32)
"""Types that the fused operators of a model compute in."""


def refuse(operator: str, argument: str, found: object, wanted: str) -> NoReturn:
    """Raise what torch_npu raises for wrong arguments."""
    raise RuntimeError(f"{operator}: argument '{argument}' is {found}, wanted: {wanted}")


def refuse_unless_among(operator: str, argument: str, found: object, allowed: Collection[Any]) -> None:
    """For arguments with a few possible values."""
    if found not in allowed:
        refuse(
            operator,
            argument,
            repr(found) if isinstance(found, str) else found,
            " or ".join(map(str, allowed)),
        )


def refuse_other_types(operator: str, types: Collection[torch.dtype], **tensors: torch.Tensor) -> None:
    """For tensors whose types are restricted."""
    for name, tensor in tensors.items():
        if tensor.dtype not in types:
            refuse(operator, name, f"of type {tensor.dtype}", " or ".join(map(str, types)))


def refuse_unequal_types(operator: str, **tensors: torch.Tensor) -> None:
    """For tensors that must share one type; the first says which."""
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if tensor.dtype != first.dtype:
            refuse(operator, name, f"of type {tensor.dtype}", f"{first.dtype}, the type of '{first_name}'")


def refuse_other_shape(
    operator: str, name: str, tensor: torch.Tensor, shape: Collection[int], why: str
) -> None:
    """For tensors whose shape follows from the others."""
    if tuple(tensor.shape) != tuple(shape):
        refuse(operator, name, f"of shape {list(tensor.shape)}", f"{list(shape)}, {why}")


def refuse_if_given(operator: str, **arguments: object) -> None:
    """For arguments that torch_npu has and the virtual NPU does not simulate."""
    for name, value in arguments.items():
        if value is not None:
            shown = "given" if isinstance(value, torch.Tensor | list) else value
            refuse(operator, name, shown, "nothing: the virtual NPU does not simulate it")
