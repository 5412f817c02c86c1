"""Everything that Megatron-core says of `torch.cuda` is answered on the host, or is known not to be."""

import importlib.util
import re
from pathlib import Path

import pytest

import hal
from hal.cuda_facade import CudaFacade

OUTSIDE = ("inference", "resharding", "fsdp", "export")
"""Parts of Megatron-core that no training run here uses."""

CUDA_ONLY = {
    "CUDAGraph": "CUDA graphs are refused by configuration",
    "graph": "CUDA graphs are refused by configuration",
    "graph_pool_handle": "CUDA graphs are refused by configuration",
    "get_device_capability": "asked for by CUDA graphs and FP8 only",
    "MemPool": "NCCL's own memory pool",
    "use_mem_pool": "NCCL's own memory pool",
    "ExternalStream": "NVSHMEM",
    "utilization": "sensors of the straggler report",
    "temperature": "sensors of the straggler report",
    "power_draw": "sensors of the straggler report",
    "clock_rate": "sensors of the straggler report",
}


def members_that_megatron_names() -> set[str]:
    spec = importlib.util.find_spec("megatron.core")
    if spec is None or spec.origin is None:
        pytest.skip("megatron-core is not installed")
    root = Path(spec.origin).parent
    named: set[str] = set()
    for path in root.rglob("*.py"):
        if not set(path.relative_to(root).parts) & set(OUTSIDE):
            named.update(re.findall(r"torch\.cuda\.([A-Za-z_]\w*(?:\.\w+)?)", path.read_text()))
    return named


def test_the_facade_has_every_member_that_megatron_names() -> None:
    named = members_that_megatron_names()
    assert "current_device" in named
    facade = CudaFacade(hal.choose("cpu"))
    missing: set[str] = set()
    for member in named:
        item: object = facade
        for part in member.split("."):
            if not hasattr(item, part):
                missing.add(member.split(".")[0])
                break
            item = getattr(item, part)
    assert missing <= set(CUDA_ONLY), (
        f"no answer on the host for torch.cuda.{sorted(missing - set(CUDA_ONLY))}"
    )
