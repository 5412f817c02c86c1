"""The host as a device: always there, one per process, no queues."""

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hal.accelerator import Accelerator, Memory
from hal.errors import UnavailableError

_TENSOR_TYPES = {
    torch.float64: "Double",
    torch.float32: "Float",
    torch.float16: "Half",
    torch.bfloat16: "BFloat16",
    torch.int64: "Long",
    torch.int32: "Int",
    torch.int16: "Short",
    torch.int8: "Char",
    torch.uint8: "Byte",
    torch.bool: "Bool",
}


def tensor_type_name(prefix: str, dtype: torch.dtype) -> str:
    """`tensor.type()` without a tensor: `prefix` is `torch` or `torch.<device_type>`."""
    if dtype not in _TENSOR_TYPES:
        raise ValueError(f"{dtype} has no legacy tensor type; {', '.join(map(str, _TENSOR_TYPES))} have one")
    return f"{prefix}.{_TENSOR_TYPES[dtype]}Tensor"


class HostEvent:
    """Host work is done when the call returns, so an event is a time stamp."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._recorded = time.perf_counter()

    def record(self, stream: Any = None) -> None:
        self._recorded = time.perf_counter()

    def wait(self, stream: Any = None) -> None:
        pass

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end_event: "HostEvent") -> float:
        return (end_event._recorded - self._recorded) * 1e3


class HostStream:
    """The only queue there is: the caller's own thread."""

    device = torch.device("cpu")

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def wait_stream(self, stream: Any) -> None:
        pass

    def wait_event(self, event: Any) -> None:
        pass

    def record_event(self, event: HostEvent | None = None) -> HostEvent:
        event = event or HostEvent()
        event.record(self)
        return event

    def query(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HostStream)

    def __hash__(self) -> int:
        return hash(HostStream)


class CpuAccelerator(Accelerator):
    """This machine's processor."""

    name = "cpu"
    device_type = "cpu"
    communication_backend = "gloo"
    ray_resource = "CPU"
    visible_devices_variable = None

    _stream = HostStream()

    def device(self, index: int | None = None) -> torch.device:
        if index:
            raise UnavailableError(
                f"device {index} of the host was asked for, but a process sees it as one device, index 0"
            )
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, index: int) -> None:
        self.device(index)

    def current_device(self) -> int:
        return 0

    def description(self) -> str:
        model = _first_value(Path("/proc/cpuinfo"), "model name", ":") or os.uname().machine
        return f"{model}, {num_cores()} cores, {torch.backends.cpu.get_cpu_capability()}"

    def ray_arguments(self, count: int) -> dict[str, Any]:
        return {"num_cpus": count}

    def synchronize(self) -> None:
        pass

    @property
    def Stream(self) -> type[HostStream]:
        return HostStream

    @property
    def Event(self) -> type[HostEvent]:
        return HostEvent

    def current_stream(self) -> HostStream:
        return self._stream

    @contextmanager
    def stream(self, stream: Any) -> Generator[Any]:
        yield stream

    def empty_cache(self) -> None:
        pass

    def memory_allocated(self) -> int:
        return _kibibytes(Path("/proc/self/status"), "VmRSS")

    def max_memory_allocated(self) -> int:
        return _kibibytes(Path("/proc/self/status"), "VmHWM")

    def reset_peak_memory(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # 5: reset the peak resident set size, see proc(5)

    def memory_info(self) -> Memory:
        meminfo = Path("/proc/meminfo")
        free, total = _kibibytes(meminfo, "MemAvailable"), _kibibytes(meminfo, "MemTotal")
        limit = _control_group_limit()
        if limit is not None and limit.total < total:
            return Memory(min(free, limit.free), limit.total)
        return Memory(free, total)

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def manual_seed(self, seed: int) -> None:
        torch.default_generator.manual_seed(seed)

    def get_rng_state(self) -> torch.Tensor:
        return torch.default_generator.get_state()

    def set_rng_state(self, state: torch.Tensor) -> None:
        torch.default_generator.set_state(state)

    def supports_dtype(self, dtype: torch.dtype) -> str | None:
        if dtype.itemsize == 1 and dtype.is_floating_point:
            return f"torch multiplies no {dtype} matrices on the CPU; use torch.bfloat16 or torch.float32"
        return None

    def tensor_type_name(self, dtype: torch.dtype) -> str:
        return tensor_type_name("torch", dtype)

    def environment_defaults(self, processes_per_node: int | None = None) -> dict[str, str]:
        # Threads of several processes on the same cores wait for each other at every operator: too many are far
        # worse (more than ten times, on a tiny model) than too few, so an unknown number of neighbours means one.
        threads = 1 if processes_per_node is None else max(1, num_cores() // processes_per_node)
        return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}

    def interface_environment(self, interface: str) -> dict[str, str]:
        return {"GLOO_SOCKET_IFNAME": interface}

    def rollout_environment(self) -> dict[str, str]:
        return {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # weights go from trainer to engine inside one process
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the trainer's threads are not the engine's to bind
            "TORCH_COMPILE_DISABLE": "1",  # compiling takes longer than it saves at the sizes a CPU trains
        }


def num_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def find() -> CpuAccelerator:
    """The host is always there."""
    return CpuAccelerator()


def _first_value(path: Path, key: str, separator: str) -> str | None:
    for line in path.read_text().splitlines():
        name, found, value = line.partition(separator)
        if found and name.strip() == key:
            return value.strip()
    return None


def _kibibytes(path: Path, key: str) -> int:
    value = _first_value(path, key, ":")
    if value is None:
        raise RuntimeError(f"{path} has no line {key}; the kernel is older than any that Python 3.11 runs on")
    return int(value.split()[0]) * 1024


def _control_group_limit() -> Memory | None:
    """What a container may use, where that is less than the host has (control groups version 2, then 1)."""
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        if Path(limit).exists() and Path(used).exists():
            text = Path(limit).read_text().strip()
            if text == "max":
                return None
            return Memory(max(0, int(text) - int(Path(used).read_text())), int(text))
    return None
