"""Run a function on several ranks, each a fresh process with one thread, within a time limit."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

import hal


def run_on_ranks(
    function: Callable[..., None], world_size: int, folder: Path, *args: Any, seconds: float = 240
) -> None:
    """`function(rank, world_size, *args)` inside a gloo process group; raises what a rank raised."""
    meeting = f"file://{folder}/meeting"
    context = mp.spawn(_one_rank, (function, world_size, meeting, args), nprocs=world_size, join=False)
    deadline = time.monotonic() + seconds
    while not context.join(timeout=1):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            raise TimeoutError(f"{world_size} ranks were not done within {seconds:g} s")


def _one_rank(
    rank: int, function: Callable[..., None], world_size: int, meeting: str, args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    hal.communication.initialize(
        hal.choose("cpu"), rank=rank, world_size=world_size, init_method=meeting, timeout_seconds=60
    )
    try:
        function(rank, world_size, *args)
    finally:
        hal.communication.destroy()
