"""NVIDIA GPUs."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hal.devices.module_backed import ModuleBacked
from hal.errors import UnavailableError


class CudaAccelerator(ModuleBacked):
    """By delegation to `torch.cuda`."""

    name = "cuda"
    device_type = "cuda"
    communication_backend = "cpu:gloo,cuda:nccl"
    ray_resource = "GPU"
    visible_devices_variable = "CUDA_VISIBLE_DEVICES"

    def __init__(self) -> None:
        super().__init__(torch.cuda)

    def set_deterministic(self, enabled: bool) -> None:
        super().set_deterministic(enabled)
        torch.backends.cudnn.deterministic = enabled
        torch.backends.cudnn.benchmark = not enabled

    def profiler_activities(self) -> list[torch.profiler.ProfilerActivity]:
        return [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]

    @contextmanager
    def named_range(self, name: str) -> Generator[None]:
        with (
            super().named_range(name),
            torch.cuda.nvtx.range(name),
        ):  # the latter is what Nsight Systems shows
            yield

    def ray_arguments(self, count: int) -> dict[str, Any]:
        return {"num_gpus": count}  # Ray refuses its own resource names among `resources`

    def supports_dtype(self, dtype: torch.dtype) -> str | None:
        capability = torch.cuda.get_device_capability()
        needed = {torch.bfloat16: (8, 0), torch.float8_e4m3fn: (8, 9), torch.float8_e5m2: (8, 9)}.get(
            dtype, (0, 0)
        )
        if capability < needed:
            has, needs = (".".join(map(str, version)) for version in (capability, needed))
            return f"{dtype} needs compute capability {needs}, this GPU has {has}; use torch.float16 or torch.float32"
        return None

    def environment_defaults(self, processes_per_node: int | None = None) -> dict[str, str]:
        # No allocator setting here: expandable segments save memory, but exclude the memory pool by which vLLM
        # gives its weights and KV cache back while the trainer works in the same process.
        return {
            "CUDA_DEVICE_MAX_CONNECTIONS": "1",  # keeps tensor-parallel communication in front of what it overlaps
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it `set_deterministic` makes every GEMM raise
            "NCCL_CUMEM_ENABLE": "0",  # NCCL's own pool and vLLM's sleeping one would each keep the memory
        }

    def interface_environment(self, interface: str) -> dict[str, str]:
        return {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}

    def rollout_environment(self) -> dict[str, str]:
        return {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # weights go from trainer to engine inside one process


def find() -> CudaAccelerator:
    """The accelerator, or `UnavailableError` with the reason."""
    nodes = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    machine = f"this machine has {', '.join(nodes)}" if nodes else "this machine shows no NVIDIA GPU in /dev"
    if torch.version.hip is not None:
        raise UnavailableError(
            f"torch {torch.__version__} is a ROCm build, on which nothing here was tried; use cpu"
        )
    if torch.version.cuda is None:
        raise UnavailableError(
            f"torch {torch.__version__} was built without CUDA; {machine}, "
            "install requirements/cuda.txt where there is one",
            hardware=bool(nodes),
        )
    if not torch.cuda.is_available():
        raise UnavailableError(
            f"torch {torch.__version__} finds no CUDA device; {machine}, "
            "look at `nvidia-smi` and at CUDA_VISIBLE_DEVICES",
            hardware=bool(nodes),
        )
    return CudaAccelerator()
