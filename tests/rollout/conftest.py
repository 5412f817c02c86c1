"""Engines in the test process, one at a time per module: vLLM lives in the default process group of its process."""

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from rollout_models import make_model
from transformers import PreTrainedModel

from hal.devices.cpu import CpuAccelerator
from mindrl.rollout.choose import engine_environment, vllm_unavailable_reason
from mindrl.rollout.engine import RolloutEngine

os.environ.update(engine_environment(CpuAccelerator()))
os.environ["HF_HUB_OFFLINE"] = "1"

MAX_MODEL_LENGTH = 64
MAX_SEQUENCES = 8


@dataclass
class Served:
    """An engine and the transformers model whose weights it gets."""

    name: str
    engine: RolloutEngine
    model: PreTrainedModel


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Builds an engine; `close` of vLLM destroys the process group, and so it comes last."""
    served: list[Served] = []

    def build(name: str, family: str, *, tied: bool, **arguments: Any) -> Served:
        directory = tmp_path_factory.mktemp(f"{family}-{tied}")
        model = make_model(directory, family, tied=tied)
        shape = {"dtype": torch.float32, "max_model_length": MAX_MODEL_LENGTH, "max_sequences": MAX_SEQUENCES}
        if name == "hf":
            from mindrl.rollout.hf_engine import HfEngine

            engine: RolloutEngine = HfEngine(directory, accelerator=CpuAccelerator(), **shape)
        else:
            engine = _vllm_engine(directory, **shape, **arguments)
        served.append(Served(name, engine, model))
        return served[-1]

    yield build
    for one in served:
        one.engine.close()
    assert not any(one.name == "vllm" for one in served) or not dist.is_initialized()


def _vllm_engine(directory: Path, **arguments: Any) -> RolloutEngine:
    reason = vllm_unavailable_reason(CpuAccelerator())
    if reason is not None:
        pytest.skip(reason)
    store = dist.FileStore(str(directory / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    from mindrl.rollout.vllm_engine import VllmEngine

    return VllmEngine(
        directory,
        tensor_parallel_size=1,
        seed=0,
        gpu_memory_utilization=0.4,
        job_id=f"mindrl-test-{uuid.uuid4().hex[:8]}",
        accelerator=CpuAccelerator(),
        **arguments,
    )
