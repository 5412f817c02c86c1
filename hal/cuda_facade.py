"""What `torch.cuda` is for redirected modules: the accelerator, under the names that such modules use."""

from contextlib import AbstractContextManager, nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from hal.accelerator import Accelerator, StreamLike

_BOUND_TO_CUDA = (
    *("CUDAGraph", "CUDAPluggableAllocator", "graph", "graph_pool_handle", "ExternalStream", "MemPool"),
    *("use_mem_pool", "get_device_capability", "power_draw", "utilization", "temperature", "clock_rate"),
)
"""Facilities without a counterpart in the contract: the device's own torch module has them, or they are refused."""

_TENSOR_TYPES = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Byte", "Bool")


class CudaFacade(ModuleType):
    """Members of `torch.cuda`, answered by an accelerator."""

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__("torch.cuda", f"torch.cuda, meaning {accelerator.name}")
        self._accelerator = accelerator
        self._own: Any = getattr(torch, accelerator.device_type)
        self.Stream = accelerator.Stream
        self.Event = accelerator.Event
        self.empty_cache = accelerator.empty_cache
        self.device_count = accelerator.device_count
        self.OutOfMemoryError = torch.OutOfMemoryError
        self.amp = torch.cuda.amp
        self.nvtx = SimpleNamespace(range_push=_ignore, range_pop=_ignore, mark=_ignore, range=_no_context)
        self.random = SimpleNamespace(
            get_rng_state=self.get_rng_state,
            set_rng_state=self.set_rng_state,
            manual_seed=self.manual_seed,
            manual_seed_all=self.manual_seed_all,
        )
        self.memory = SimpleNamespace(
            empty_cache=accelerator.empty_cache,
            memory_allocated=self.memory_allocated,
            max_memory_allocated=self.max_memory_allocated,
            memory_stats=self.memory_stats,
        )
        for name in _TENSOR_TYPES:
            self.__dict__[f"{name}Tensor"] = self._tensor_type(name)

    def __getattr__(self, name: str) -> Any:
        if name in _BOUND_TO_CUDA and hasattr(self._own, name):
            return getattr(self._own, name)
        raise AttributeError(f"torch.cuda.{name} has no counterpart on {self._accelerator.name}")

    # Which device. On the host, whose devices have no index, the current device is a `torch.device`: it serves
    # wherever an index of CUDA does, as in `torch.empty(n, device=torch.cuda.current_device())`.

    def is_available(self) -> bool:
        """False on the host: whoever asks is ready to do without."""
        return self._accelerator.device_type != "cpu"

    is_initialized = is_available

    def init(self) -> None:
        """The accelerator was set up when it was chosen."""

    def is_bf16_supported(self, *_: Any, **__: Any) -> bool:
        return self._accelerator.supports_dtype(torch.bfloat16) is None

    def current_device(self) -> int | torch.device:
        if self._accelerator.device_type == "cpu":
            return self._accelerator.device()
        return self._accelerator.current_device()

    def set_device(self, device: Any) -> None:
        self._accelerator.set_device(_index(device) or 0)

    def device(self, device: Any) -> AbstractContextManager[Any]:
        """Context in which `device` is the current one."""
        if self._accelerator.device_type == "cpu":
            return nullcontext()
        return self._own.device(device)

    def get_device_name(self, device: Any = None) -> str:
        return self._accelerator.description()

    def get_device_properties(self, device: Any = None) -> Any:
        """Name, memory and (0, so that nothing newer is assumed) compute capability."""
        return SimpleNamespace(
            name=self._accelerator.description(),
            total_memory=self._accelerator.memory_info().total,
            major=0,
            minor=0,
            multi_processor_count=1,
        )

    # Order of work.

    def synchronize(self, device: Any = None) -> None:
        self._accelerator.synchronize()

    def current_stream(self, device: Any = None) -> StreamLike:
        return self._accelerator.current_stream()

    def default_stream(self, device: Any = None) -> StreamLike:
        if self._accelerator.device_type == "cpu":
            return self._accelerator.current_stream()
        return self._own.default_stream(device)

    def stream(self, stream: Any) -> AbstractContextManager[Any]:
        return self._accelerator.stream(stream)

    def set_stream(self, stream: Any) -> None:
        if self._accelerator.device_type != "cpu":
            self._own.set_stream(stream)

    def is_current_stream_capturing(self) -> bool:
        """Nothing but CUDA captures graphs in this way."""
        return False

    # Random numbers.

    @property
    def default_generators(self) -> Any:
        if self._accelerator.device_type == "cpu":
            return _HostGenerators()
        return self._own.default_generators

    def manual_seed(self, seed: int) -> None:
        self._accelerator.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        self._accelerator.manual_seed(seed)

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return self._accelerator.get_rng_state()

    def set_rng_state(self, new_state: torch.Tensor, device: Any = None) -> None:
        self._accelerator.set_rng_state(new_state)

    # Memory.

    def memory_allocated(self, device: Any = None) -> int:
        return self._accelerator.memory_allocated()

    def max_memory_allocated(self, device: Any = None) -> int:
        return self._accelerator.max_memory_allocated()

    def memory_reserved(self, device: Any = None) -> int:
        return self.memory_stats()["reserved_bytes.all.current"]

    def max_memory_reserved(self, device: Any = None) -> int:
        return self.memory_stats()["reserved_bytes.all.peak"]

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        self._accelerator.reset_peak_memory()

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        return self._accelerator.memory_info()

    def memory_stats(self, device: Any = None) -> dict[str, int]:
        """The device's own statistics; the host knows four of them."""
        if self._accelerator.device_type != "cpu":
            return self._own.memory_stats()
        now, peak = self._accelerator.memory_allocated(), self._accelerator.max_memory_allocated()
        return {
            "allocated_bytes.all.current": now,
            "allocated_bytes.all.peak": peak,
            "reserved_bytes.all.current": now,
            "reserved_bytes.all.peak": peak,
        }

    def _tensor_type(self, name: str) -> Any:
        where: Any = torch if self._accelerator.device_type == "cpu" else self._own
        return getattr(where, f"{name}Tensor", None)


class _HostGenerators:
    """The host has one generator, whatever the index."""

    def __getitem__(self, index: Any) -> torch.Generator:
        return torch.default_generator


def _ignore(*_: Any, **__: Any) -> None:
    """Profiler marks are CUDA's."""


def _no_context(*_: Any, **__: Any) -> AbstractContextManager[None]:
    return nullcontext()


def _index(device: Any) -> int | None:
    if isinstance(device, int) or device is None:
        return device
    return torch.device(device).index
