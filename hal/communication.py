"""The default process group of a run: set up with a time limit, taken down in the end."""

from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous  # pyright: ignore[reportUnknownVariableType]

from hal.accelerator import Accelerator
from hal.errors import CommunicationError


def initialize(
    accelerator: Accelerator,
    *,
    rank: int,
    world_size: int,
    init_method: str,
    timeout_seconds: float,
    join_timeout_seconds: float | None = None,
) -> None:
    """Join the default process group; returns when all `world_size` ranks have.

    `init_method` is `tcp://host:port` of rank 0, or `file:///path`. `join_timeout_seconds` bounds the meeting,
    `timeout_seconds` every collective (and the meeting too where the former is left out). Raises
    `CommunicationError`."""
    join_seconds = timeout_seconds if join_timeout_seconds is None else join_timeout_seconds
    asked = f"rank {rank} of {world_size} over {accelerator.communication_backend} at {init_method}"
    if dist.is_initialized():
        raise CommunicationError(
            f"{asked} was asked for, but this process is rank {dist.get_rank()} of {dist.get_world_size()} over "
            f"{dist.get_backend()} already; call hal.communication.destroy() first"
        )
    if not 0 <= rank < world_size:
        raise CommunicationError(f"{asked} was asked for, but ranks run from 0 to {world_size - 1}")
    try:
        store, _, _ = next(rendezvous(init_method, rank, world_size, timeout=timedelta(seconds=join_seconds)))
        store.set_timeout(timedelta(seconds=timeout_seconds))
        dist.init_process_group(
            accelerator.communication_backend,
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout_seconds),
        )
    except (RuntimeError, ValueError) as error:
        raise CommunicationError(
            f"{asked} was asked for, and did not come about within {join_seconds:g} s: {error}. Look whether all "
            "ranks started, whether that address is rank 0's and reachable, and whether the interface variables "
            f"({', '.join(accelerator.interface_environment('INTERFACE'))}) name the interface of this network"
        ) from error


def destroy() -> None:
    """Leave the default process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
