"""vLLM as a guest in the trainer's process: what it must not touch, leave behind, or start."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from vllm import ModelRegistry
from vllm.distributed.parallel_state import GroupCoordinator
from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher

from hal.accelerator import Accelerator

SHARED_MEMORY = Path("/dev/shm")


def import_model_class(hf_dir: Path) -> None:
    """vLLM would start a process only to look at the model's class: seconds on a machine that never did it.

    It does so to leave the device alone until it forks; here nothing is forked and the class is needed anyway."""
    for architecture in json.loads((hf_dir / "config.json").read_text()).get("architectures") or ():
        if architecture in ModelRegistry.models:
            ModelRegistry.register_model(architecture, ModelRegistry.models[architecture].load_model_cls())


def executor_of(job_id: str, local_rank: int) -> type[ExecutorWithExternalLauncher]:
    """The executor class of a rank whose device is `local_rank`."""

    class Executor(ExecutorWithExternalLauncher):
        """Joins the default process group and names shared memory after the job.

        vLLM derives that name from the part of the rendezvous address behind the last colon; with its usual
        `env://` two jobs on one host, or a job after one that was killed, would collide."""

        def _distributed_args(self) -> tuple[str, int, int]:
            return f"tcp://mindrl:{job_id}", dist.get_rank(), local_rank

    return Executor


def unlink_shared_memory(job_id: str, group: GroupCoordinator) -> None:
    """Remove the names of the segments that all ranks have mapped by now: they vanish with the processes."""
    dist.barrier()
    for segment in SHARED_MEMORY.glob(f"{job_id}-*"):
        segment.unlink(missing_ok=True)
    buffer = group.mq_broadcaster.buffer if group.mq_broadcaster is not None else None
    if buffer is not None and buffer.is_creator:
        buffer.shared_memory.unlink()
        buffer.is_creator = False  # its destructor would unlink it once more


@contextmanager
def untouched_random_state(accelerator: Accelerator) -> Iterator[None]:
    """vLLM seeds and draws from the process's generators, which belong to the trainer."""
    of_device, of_torch = accelerator.get_rng_state(), torch.get_rng_state()
    of_numpy, of_python = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(of_torch)
        accelerator.set_rng_state(of_device)
        np.random.set_state(of_numpy)
        random.setstate(of_python)


@contextmanager
def own_set_num_threads() -> Iterator[None]:
    """vLLM on CPU replaces torch.set_num_threads by a warning; the trainer keeps the real one."""
    kept = torch.set_num_threads
    try:
        yield
    finally:
        torch.set_num_threads = kept
