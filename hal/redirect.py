"""Let modules that say `torch.cuda` reach another device, without touching torch.

`redirect(modules, accelerator)` replaces the module-level name `torch` in the given modules by a proxy whose `cuda`
is the accelerator (see `hal.cuda_facade`) and whose factories understand `device="cuda"`. torch itself, and every
other module of the process, stay as they are. Which modules is the caller's data.

What a proxy can't reach, and the caller must replace where it matters: methods and attributes of tensors
(`tensor.cuda()`, `tensor.is_cuda`, `tensor.type()`), names that a module took out of torch by `from torch.x import y`,
and what it computed from `torch.cuda` while it was imported.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from hal.accelerator import Accelerator
from hal.cuda_facade import CudaFacade
from hal.errors import RedirectError

_FACTORIES = (
    *("tensor", "as_tensor", "asarray", "scalar_tensor", "empty", "empty_like", "empty_strided", "eye"),
    *("zeros", "zeros_like", "ones", "ones_like", "full", "full_like", "arange", "linspace", "logspace"),
    *("rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm"),
    *("tril_indices", "triu_indices", "Generator", "autocast", "load"),
)
"""Functions of torch that take a device by keyword (`device`, `device_type` or `map_location`)."""

_DEVICE_KEYWORDS = ("device", "device_type", "map_location")


@dataclass(frozen=True, slots=True)
class Redirect:
    """What a call of `redirect` did."""

    accelerator: str
    redirected: tuple[str, ...]
    """Modules that reach the accelerator where they say `torch.cuda`."""
    already: tuple[str, ...]
    """Modules that an earlier call had redirected."""
    without_torch: tuple[str, ...]
    """Modules that have no name `torch`; nothing to do for the proxy."""


class TorchProxy(ModuleType):
    """torch with a few names replaced. What is set on it is set on torch."""

    def __init__(self, accelerator: Accelerator, replaced: Mapping[str, Any]) -> None:
        super().__init__("torch", torch.__doc__)
        self.__dict__.update(
            __file__=torch.__file__,
            __path__=torch.__path__,
            __spec__=torch.__spec__,
            hal_accelerator=accelerator.name,
        )
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(torch, name, value)

    def __dir__(self) -> list[str]:
        return dir(torch)


def redirect(modules: Iterable[ModuleType], accelerator: Accelerator) -> Redirect:
    """Make `torch.cuda` in these (imported) modules mean `accelerator`; once or many times, with the same result.

    On CUDA itself there is nothing to do. Raises `RedirectError` if one of them was redirected elsewhere."""
    if accelerator.device_type == "cuda":
        return Redirect(accelerator.name, (), (), ())
    proxy = _proxy(accelerator)
    done: list[str] = []
    already: list[str] = []
    without: list[str] = []
    for module in modules:
        current = vars(module).get("torch")
        if isinstance(current, TorchProxy):
            before = vars(current)["hal_accelerator"]
            if before != accelerator.name:
                raise RedirectError(
                    f"module {module.__name__} is to be redirected to {accelerator.name}, but it is redirected to "
                    f"{before} already; one process trains on one kind of device"
                )
            already.append(module.__name__)
        elif current is torch:
            vars(module)["torch"] = proxy
            done.append(module.__name__)
        else:
            without.append(module.__name__)
    return Redirect(accelerator.name, tuple(done), tuple(already), tuple(without))


def _proxy(accelerator: Accelerator) -> TorchProxy:
    to_device = _DeviceMap(accelerator)
    replaced: dict[str, Any] = {name: _factory(getattr(torch, name), to_device) for name in _FACTORIES}
    replaced["device"] = _device_class(to_device)
    replaced["cuda"] = CudaFacade(accelerator)
    return TorchProxy(accelerator, replaced)


class _DeviceMap:
    """Takes whatever torch takes for a device; turns what names CUDA into the accelerator's, leaves the rest."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.device_type = accelerator.device_type
        self.has_index = accelerator.device_type != "cpu"

    def __call__(self, device: Any) -> Any:
        if isinstance(device, str) and device.split(":")[0] == "cuda":
            return self._renamed(device)
        if isinstance(device, torch.device) and device.type == "cuda":
            return torch.device(self._renamed(str(device)))
        return device

    def _renamed(self, device: str) -> str:
        _, colon, index = device.partition(":")
        return f"{self.device_type}{colon}{index}" if self.has_index else self.device_type


def _factory(function: Callable[..., Any], to_device: _DeviceMap) -> Callable[..., Any]:
    if isinstance(function, type):
        return _class_factory(function, to_device)

    @functools.wraps(function)
    def on_accelerator(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **_translated(kwargs, to_device))

    return on_accelerator


def _translated(kwargs: dict[str, Any], to_device: _DeviceMap) -> dict[str, Any]:
    for keyword in _DEVICE_KEYWORDS:
        if keyword in kwargs:
            kwargs[keyword] = to_device(kwargs[keyword])
    if kwargs.get("pin_memory") and not to_device.has_index:
        kwargs["pin_memory"] = False  # the host has nothing to pin for
    return kwargs


def _class_factory(original: type, to_device: _DeviceMap) -> type:
    """A class that makes instances of `original`, and recognises them as its own."""

    class Meta(type):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return original(*map(to_device, args), **_translated(kwargs, to_device))

        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, original)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, original)

    return Meta(original.__name__, (), {"__doc__": original.__doc__, "__module__": original.__module__})


def _device_class(to_device: _DeviceMap) -> type:
    """`torch.device`, where ("cuda", index) may have an index that is a device already."""

    class Meta(type):
        def __call__(cls, *args: Any, **kwargs: Any) -> torch.device:
            device, index = _device_arguments(*args, **kwargs)
            if isinstance(index, torch.device):
                return index
            device = to_device(device)
            if index is None or (isinstance(device, str) and device == "cpu"):
                return torch.device(device)
            return torch.device(device, index)

        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, torch.device)

    return Meta("device", (), {"__doc__": torch.device.__doc__, "__module__": "torch"})


def _device_arguments(device: Any = None, index: Any = None, *, type: Any = None) -> tuple[Any, Any]:
    return (type if device is None else device), index
