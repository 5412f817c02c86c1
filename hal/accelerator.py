"""The device contract: what the rest of the program may ask of a device.

`hal.choose()` returns one. A new device is a subclass of `Accelerator` (of `hal.devices.module_backed.ModuleBacked`
when torch has a module for it, as `torch.cuda`), announced under the entry point group `hal.accelerators`;
`hal.testing` holds the suite that it must pass. What the contract lacks is an `AttributeError`, not a guess.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch


class StreamLike(Protocol):
    """A queue of work on a device; on devices without queues, an object whose every wait is over at once."""

    def synchronize(self) -> None: ...
    def wait_stream(self, stream: Any) -> None: ...
    def wait_event(self, event: Any) -> None: ...
    def record_event(self, event: Any = None) -> Any: ...
    def query(self) -> bool: ...


class EventLike(Protocol):
    """A mark in a stream."""

    def record(self, stream: Any = None) -> None: ...
    def wait(self, stream: Any = None) -> None: ...
    def query(self) -> bool: ...
    def synchronize(self) -> None: ...
    def elapsed_time(self, end_event: Any) -> float: ...


class Memory(NamedTuple):
    """Bytes of the device's memory."""

    free: int
    total: int


class Accelerator(ABC):
    """One kind of device, as seen by one process."""

    name: str
    """What the user calls it: `cpu`, `cuda`, `npu`, or an entry point's name."""
    device_type: str
    """What torch calls it, as in `torch.device(device_type)`."""
    communication_backend: str
    """Backend of the default process group; serves host tensors too, as checkpoints and records need."""
    ray_resource: str
    """The resource that a worker process on one device asks Ray for."""
    visible_devices_variable: str | None
    """Environment variable that narrows down the devices a process sees; None where there is no such thing."""

    # Which device.

    @abstractmethod
    def device(self, index: int | None = None) -> torch.device:
        """The device with this index, by default the current one."""

    @abstractmethod
    def device_count(self) -> int:
        """Devices this process can see. The host counts as one."""

    @abstractmethod
    def set_device(self, index: int) -> None:
        """Make this device the current one."""

    @abstractmethod
    def current_device(self) -> int:
        """Index of the current device."""

    @abstractmethod
    def description(self) -> str:
        """The device in words, for tables."""

    # Order of work.

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all work given to the current device is done."""

    @property
    @abstractmethod
    def Stream(self) -> Callable[..., StreamLike]:
        """Makes a stream."""

    @property
    @abstractmethod
    def Event(self) -> Callable[..., EventLike]:
        """Makes an event; `enable_timing=True` allows `elapsed_time` (milliseconds)."""

    @abstractmethod
    def current_stream(self) -> StreamLike:
        """The stream that work goes to."""

    @abstractmethod
    def stream(self, stream: Any) -> AbstractContextManager[Any]:
        """Send the work of a `with` block to a stream; None changes nothing."""

    # Memory, in bytes.

    @abstractmethod
    def empty_cache(self) -> None:
        """Give memory that is reserved but unused back to the device."""

    @abstractmethod
    def memory_allocated(self) -> int:
        """In use by this process now."""

    @abstractmethod
    def max_memory_allocated(self) -> int:
        """Most that was in use since the start or the last `reset_peak_memory`."""

    @abstractmethod
    def reset_peak_memory(self) -> None:
        """Start `max_memory_allocated` afresh."""

    @abstractmethod
    def memory_info(self) -> Memory:
        """Free and total, whoever uses the rest."""

    @abstractmethod
    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of a host tensor that the device reads without a detour; the tensor itself where that is moot."""

    # Random numbers, and the same ones again.

    @abstractmethod
    def manual_seed(self, seed: int) -> None:
        """Seed the current device's generator, and no other."""

    @abstractmethod
    def get_rng_state(self) -> torch.Tensor:
        """State of the current device's generator, as a host tensor of bytes."""

    @abstractmethod
    def set_rng_state(self, state: torch.Tensor) -> None:
        """Inverse of `get_rng_state`."""

    def set_deterministic(self, enabled: bool) -> None:
        """Same inputs, same bits; an op that can't promise it raises."""
        # Does what use_deterministic_algorithms does, without its import of inductor, which takes seconds.
        torch.set_deterministic_debug_mode("error" if enabled else "default")

    # Where the time goes.

    def profiler(self) -> torch.profiler.profile:
        """Context that records what runs inside; `export_chrome_trace(path)` of it writes that down afterwards."""
        return torch.profiler.profile(activities=self.profiler_activities())

    def profiler_activities(self) -> list[torch.profiler.ProfilerActivity]:
        """What can be recorded here: the host's operators, and the device's own where there are any."""
        return [torch.profiler.ProfilerActivity.CPU]

    def named_range(self, name: str) -> AbstractContextManager[Any]:
        """Gives what runs inside a name in profiles."""
        return torch.profiler.record_function(name)

    # Facts.

    @abstractmethod
    def supports_dtype(self, dtype: torch.dtype) -> str | None:
        """None if matrices of this type can be multiplied here, else the reason why not."""

    @abstractmethod
    def tensor_type_name(self, dtype: torch.dtype) -> str:
        """What `tensor.type()` says for a tensor of this device, such as `torch.FloatTensor`."""

    @abstractmethod
    def environment_defaults(self, processes_per_node: int | None = None) -> dict[str, str]:
        """Environment of a process that trains here, set before it imports torch; the user's own settings win.

        `processes_per_node`: processes that share the host; None is unknown."""

    @abstractmethod
    def interface_environment(self, interface: str) -> dict[str, str]:
        """Variables that bind communication to a network interface, such as `eth0`.

        Unset, a host with several interfaces may pick one that the other nodes can't reach, and hangs."""

    @abstractmethod
    def rollout_environment(self) -> dict[str, str]:
        """What a vLLM engine that shares the process with a trainer needs in the environment on this device."""

    def rollout_arguments(self) -> dict[str, Any]:
        """Arguments for such an engine (fields of vLLM's EngineArgs) that the environment can't express."""
        return {}

    def ray_arguments(self, count: int) -> dict[str, Any]:
        """Keyword arguments by which `ray.init` declares and an actor asks for `count` of these devices."""
        return {"resources": {self.ray_resource: count}}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.description()}>"
