"""Huawei Ascend NPUs, through torch_npu."""

import ctypes
import importlib
import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from hal.devices.module_backed import ModuleBacked
from hal.errors import UnavailableError

_log = logging.getLogger(__name__)

_PROFILING_LIBRARY = "libmspti.so"
"""Of CANN; torch_npu opens it when a profile of the device starts."""


class NpuAccelerator(ModuleBacked):
    """By delegation to `torch.npu`, which torch_npu adds."""

    name = "npu"
    device_type = "npu"
    communication_backend = "cpu:gloo,npu:hccl"  # hccl alone refuses host tensors
    ray_resource = "NPU"
    visible_devices_variable = "ASCEND_RT_VISIBLE_DEVICES"

    def set_deterministic(self, enabled: bool) -> None:
        super().set_deterministic(enabled)
        # Read when a communicator is made, so call this before the process group is set up.
        for variable, on, off in (("HCCL_DETERMINISTIC", "true", "false"), ("LCCL_DETERMINISTIC", "1", "0")):
            os.environ[variable] = on if enabled else off

    def profiler_activities(self) -> list[torch.profiler.ProfilerActivity]:
        host, device = torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.PrivateUse1
        try:
            ctypes.CDLL(_PROFILING_LIBRARY)
        except OSError as error:
            _log.warning("profiles show the host's side only: %s; source CANN's set_env.sh", error)
            return [host]
        return [host, device] if device in torch.profiler.supported_activities() else [host]

    def supports_dtype(self, dtype: torch.dtype) -> str | None:
        if dtype == torch.float64:
            return "Ascend multiplies no torch.float64 matrices; use torch.float32"
        if dtype == torch.bfloat16 and not self.module.is_bf16_supported():
            return (
                f"{self.module.get_device_name(0)} has no torch.bfloat16; use torch.float16 or torch.float32"
            )
        if dtype.itemsize == 1 and dtype.is_floating_point:
            return f"torch multiplies no {dtype} matrices on Ascend; use torch.bfloat16"
        return None

    def environment_defaults(self, processes_per_node: int | None = None) -> dict[str, str]:
        # No allocator setting here: expandable segments exclude the memory pool by which vLLM gives its weights
        # and KV cache back while the trainer works in the same process.
        return {
            "CUDA_DEVICE_MAX_CONNECTIONS": "1",  # Megatron asks for it by this name on every device
            "TASK_QUEUE_ENABLE": "1",  # launch operators from a second thread; level 2 also moves their workspaces
            "HCCL_CONNECT_TIMEOUT": "1800",  # seconds; ranks that load big weights reach their first collective late
        }

    def interface_environment(self, interface: str) -> dict[str, str]:
        return {"GLOO_SOCKET_IFNAME": interface, "HCCL_SOCKET_IFNAME": interface}

    def rollout_environment(self) -> dict[str, str]:
        return {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # weights go from trainer to engine inside one process
            "VLLM_ASCEND_ENABLE_NZ": "0",  # weights in the NZ layout can't be replaced in place
        }

    def rollout_arguments(self) -> dict[str, Any]:
        # The engine would bind the process, and so the trainer's threads, to cores of its own choice.
        return {"additional_config": {"enable_cpu_binding": False}}


def find() -> NpuAccelerator:
    """The accelerator, or `UnavailableError` with the reason."""
    nodes = sorted(path.name for path in Path("/dev").glob("davinci[0-9]*"))
    machine = f"this machine has {', '.join(nodes)}" if nodes else "this machine shows no Ascend NPU in /dev"
    if find_spec("torch_npu") is None:
        raise UnavailableError(
            f"the package torch_npu is not installed; {machine}, "
            "install requirements/npu-production.txt where there is one",
            hardware=bool(nodes),
        )
    try:
        importlib.import_module("torch_npu")
    except (ImportError, OSError, RuntimeError) as error:
        raise UnavailableError(
            f"torch_npu is installed but does not load ({error}); {machine}, "
            f"source the CANN toolkit's set_env.sh, and match torch_npu to torch {torch.__version__}",
            hardware=bool(nodes),
        ) from error
    module: Any = getattr(torch, "npu", None)
    if module is None or not module.is_available():
        raise UnavailableError(
            f"torch_npu finds no device; {machine}, look at `npu-smi info` and at ASCEND_RT_VISIBLE_DEVICES",
            hardware=bool(nodes),
        )
    return NpuAccelerator(module)
