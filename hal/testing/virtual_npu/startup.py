"""Runs at the start of every Python process of the virtual NPU, from the folder of the build.

`hal_virtual_npu.pth` in site-packages calls it where `HAL_VIRTUAL_NPU` names that folder. It waits for the import of
torch_npu, which torch itself triggers: before it, the stand-ins for CANN's libraries are loaded; after it, the simulated
kernels take their places. It imports nothing but the standard library until then.
"""

import contextlib
import ctypes
import importlib
import importlib.abc
import importlib.machinery
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(os.environ["HAL_VIRTUAL_NPU"])

FORCED = {
    # Operators run in the calling thread: simulated kernels don't wait for a queue of launches.
    "TASK_QUEUE_ENABLE": "0",
}

FUSED = {
    "norm": ("npu_rms_norm", "npu_rms_norm_backward"),
    "swiglu": ("npu_swiglu", "npu_swiglu_backward"),
    "rotary": ("npu_rotary_mul", "npu_rotary_mul_backward"),
    "attention": ("npu_fusion_attention", "npu_fusion_attention_grad"),
    "grouped_matmul": ("npu_grouped_matmul",),
    "moe": (
        *("npu_moe_token_permute", "npu_moe_token_permute_grad", "npu_moe_token_permute_grad_v2"),
        *("npu_moe_token_permute_with_routing_map", "npu_moe_token_permute_with_routing_map_grad"),
        *("npu_moe_token_unpermute", "_npu_moe_token_unpermute"),
        *("npu_moe_token_unpermute_grad", "npu_moe_token_unpermute_grad_v2"),
    ),
    "adamw": ("npu_apply_adam_w.out",),
    "cast": ("_npu_dtype_cast", "_npu_dtype_cast_backward"),
}
"""Operators of torch_npu that are simulated, by the module of `hal.testing.virtual_npu.kernels` that holds them. There a
dot is an underscore."""


class TorchNpuFinder:
    """Finds torch_npu where it is, and prepares the ground around its import."""

    def find_spec(
        self, name: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "torch_npu":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _AroundImport(spec.loader)
        return spec


class _AroundImport(importlib.abc.Loader):
    """The package's own loader, with something before and after."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        os.environ.update(FORCED)
        for name in (FOLDER / "stand_ins.txt").read_text().split():
            # A library that is loaded is found by its name, wherever it came from.
            ctypes.CDLL(str(FOLDER / name), mode=ctypes.RTLD_GLOBAL)
        # torch_npu says on standard output that CANN's folder is not named; output belongs to the program.
        with contextlib.redirect_stdout(sys.stderr):
            self._loader.exec_module(module)
        install()
        bound_collectives()


_libraries: list[Any] = []


def install() -> None:
    """Put the simulated kernels in place of torch_npu's."""
    import torch

    torch.ops.load_library(str(FOLDER / "libvirtual_npu_simulator.so"))
    torch.ops.virtual_npu.install()
    npu, aten = torch.library.Library("npu", "IMPL"), torch.library.Library("aten", "IMPL")
    _libraries.extend((npu, aten))  # what they register lives as long as they do
    for subject, operators in FUSED.items():
        for operator in operators:
            npu.impl(operator, _later(subject, operator), "PrivateUse1", allow_override=True)
    # torch_npu's own kernel calls Ascend's flash attention.
    aten.impl(
        "scaled_dot_product_attention", _later("attention", "scaled_dot_product_attention"), "AutogradPrivateUse1",
        allow_override=True,
    )  # fmt: skip


def bound_collectives() -> None:
    """Hand each group's time limit to the simulated runtime.

    On a device torch_npu's watchdog ends a process whose collective takes longer; here a collective runs inside the
    call, where the watchdog does not see it."""
    registry: Any = importlib.import_module("torch_npu._init.registry.distributed")
    make_group = registry._new_process_group_hccl_helper
    options_type = importlib.import_module("torch_npu")._C._distributed_c10d.ProcessGroupHCCL.Options

    def bounded(backend: Any, options: Any) -> Any:
        if not isinstance(options, options_type):
            options = options_type()
        seconds = max(1, math.ceil(backend.timeout.total_seconds()))
        options.hccl_config = {"hccl_exec_timeout": seconds, **options.hccl_config}
        return make_group(backend, options)

    registry._new_process_group_hccl_helper = bounded


def _later(subject: str, operator: str) -> Callable[..., Any]:
    """A kernel that is imported when it is first called: `hal` imports torch, and torch may just be importing us."""

    name = operator.replace(".", "_")

    def kernel(*args: Any, **kwargs: Any) -> Any:
        module = importlib.import_module(f"hal.testing.virtual_npu.kernels.{subject}")
        return getattr(module, name)(*args, **kwargs)

    kernel.__name__ = name
    return kernel


sys.path.append(str(FOLDER / "python"))  # the module `acl`
sys.meta_path.insert(0, TorchNpuFinder())
