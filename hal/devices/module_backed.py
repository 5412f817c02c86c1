"""Everything that a device with a torch module of its own (`torch.cuda`, `torch.npu`) answers by delegation."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from hal.accelerator import Accelerator, Memory
from hal.devices.cpu import tensor_type_name
from hal.errors import UnavailableError


class ModuleBacked(Accelerator):
    """`module` follows the conventions of `torch.cuda`; subclasses add names, facts and environment."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def device(self, index: int | None = None) -> torch.device:
        return torch.device(self.device_type, self.current_device() if index is None else index)

    def device_count(self) -> int:
        return int(self.module.device_count())

    def set_device(self, index: int) -> None:
        found = self.device_count()
        if not 0 <= index < found:
            there = f"sees {found}, from index 0 to {found - 1}" if found else "sees none, not even index 0"
            raise UnavailableError(
                f"device {index} of kind {self.name} was asked for, but this process {there}; "
                f"{self.visible_devices_variable} is {os.environ.get(self.visible_devices_variable or '', 'not set')}. "
                "A device that was there before has been hidden from this process, or is lost: look at the system's log"
            )
        self.module.set_device(index)

    def current_device(self) -> int:
        return int(self.module.current_device())

    def description(self) -> str:
        total = self.module.get_device_properties(0).total_memory / 2**30
        return f"{self.device_count()} x {self.module.get_device_name(0)}, {total:.0f} GiB"

    def synchronize(self) -> None:
        self.module.synchronize()

    @property
    def Stream(self) -> Callable[..., Any]:
        return self.module.Stream

    @property
    def Event(self) -> Callable[..., Any]:
        return self.module.Event

    def current_stream(self) -> Any:
        return self.module.current_stream()

    def stream(self, stream: Any) -> AbstractContextManager[Any]:
        return self.module.stream(stream)

    def empty_cache(self) -> None:
        self.module.empty_cache()

    def memory_allocated(self) -> int:
        return int(self.module.memory_allocated())

    def max_memory_allocated(self) -> int:
        return int(self.module.max_memory_allocated())

    def reset_peak_memory(self) -> None:
        self.module.reset_peak_memory_stats()

    def memory_info(self) -> Memory:
        return Memory(*map(int, self.module.mem_get_info()))

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory()

    def manual_seed(self, seed: int) -> None:
        self.module.manual_seed(seed)

    def get_rng_state(self) -> torch.Tensor:
        return self.module.get_rng_state(self.current_device())

    def set_rng_state(self, state: torch.Tensor) -> None:
        self.module.set_rng_state(state, self.current_device())

    def tensor_type_name(self, dtype: torch.dtype) -> str:
        return tensor_type_name(f"torch.{self.device_type}", dtype)
