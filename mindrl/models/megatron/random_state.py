"""Every random generator of a process: Python's, numpy's, torch's on host and device, Megatron's per-region ones."""

import random
from typing import Any

import numpy as np
import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing import ShardedObject
from megatron.core.tensor_parallel import get_cuda_rng_tracker, model_parallel_cuda_manual_seed

from hal import Accelerator


def seed_generators(seed: int, accelerator: Accelerator) -> None:
    """Start all generators afresh, equal on all ranks except for what tensor-parallel regions draw."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    accelerator.manual_seed(seed)
    model_parallel_cuda_manual_seed(seed, force_reset_rng=True)


def sharded_state(accelerator: Accelerator) -> ShardedObject:
    """This rank's generators, for `dist_checkpointing`; they mean something in the same layout only."""
    python, numpy = random.getstate(), np.random.get_state()
    state: dict[str, Any] = {
        "python": python,
        "numpy": (numpy[0], torch.from_numpy(numpy[1].astype(np.int64)), *numpy[2:]),
        "torch": torch.get_rng_state(),
        "device": accelerator.get_rng_state(),
        "regions": get_cuda_rng_tracker().get_states(),
    }
    place, of = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return ShardedObject(_key(accelerator), state, (of,), (place,))


def load_state(state: dict[str, Any], accelerator: Accelerator) -> None:
    """Inverse of `sharded_state`, given the object that it held."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    accelerator.set_rng_state(state["device"])
    get_cuda_rng_tracker().set_states(state["regions"])


def _key(accelerator: Accelerator) -> str:
    """Name of the generators in a checkpoint; another layout, or kind of device, has another one."""
    tensor = parallel_state.get_tensor_model_parallel_world_size()
    pipeline = parallel_state.get_pipeline_model_parallel_world_size()
    expert = parallel_state.get_expert_model_parallel_world_size()
    layout = f"tp{tensor}.pp{pipeline}" + (f".ep{expert}" if expert > 1 else "")
    return f"generators.{accelerator.device_type}.{layout}"
