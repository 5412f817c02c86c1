"""Carries a call from device `npu` to the host and back."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

from hal.testing.virtual_npu.kernels.refusals import refuse


def on_host(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Call `kernel` with host tensors on the device's memory; its tensors become tensors of the device.

    Writing to an argument writes to the device's memory. Tensors on different devices are refused."""
    signature = inspect.signature(kernel)

    @functools.wraps(kernel)
    def on_device(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        device = _device_of(kernel.__name__, given)
        result = kernel(**{name: _to_host(value) for name, value in given.items()})
        if isinstance(result, tuple):
            return tuple(_to_device(item, device) for item in result)  # pyright: ignore[reportUnknownVariableType]
        if isinstance(result, list):
            return [_to_device(item, device) for item in result]  # pyright: ignore[reportUnknownVariableType]
        return _to_device(result, device)

    return on_device


def _device_of(operator: str, given: dict[str, Any]) -> torch.device:
    first: tuple[str, torch.device] | None = None
    for name, value in given.items():
        for tensor in value if isinstance(value, list | tuple) else (value,):  # pyright: ignore[reportUnknownVariableType]
            if not isinstance(tensor, torch.Tensor):
                continue
            if first is None and tensor.device.type != "cpu":
                first = (name, tensor.device)
    if first is None:
        raise RuntimeError(f"{operator}: no argument is on a device")
    for name, value in given.items():
        for tensor in value if isinstance(value, list | tuple) else (value,):  # pyright: ignore[reportUnknownVariableType]
            if isinstance(tensor, torch.Tensor) and tensor.device != first[1]:
                refuse(operator, name, f"on {tensor.device}", f"on {first[1]}, where '{first[0]}' is")
    return first[1]


def _to_host(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.ops.virtual_npu.host_view(value)
    if isinstance(value, list | tuple):
        return [_to_host(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def _to_device(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
