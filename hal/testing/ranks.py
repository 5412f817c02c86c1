"""Run a function on several ranks over an accelerator's own communication backend, within a time limit."""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch

import hal


class RankError(AssertionError):
    """A rank raised, or died."""


def run_on_ranks(
    function: Callable[..., Any],
    world_size: int,
    folder: Path,
    *args: Any,
    accelerator: str = "cpu",
    seconds: float = 240,
    timeout_seconds: float = 60,
) -> list[Any]:
    """What `function(rank, world_size, *args)` returned on each rank; it must be importable by name.

    Each rank is a fresh process with one thread and a device of its own (ranks share the host), in a process group
    that meets in `folder`, where nobody met before; `timeout_seconds` bounds each collective. Raises `RankError` with
    the first rank's traceback or exit code, `TimeoutError` after `seconds`. No rank outlives the call."""
    processes = multiprocessing.get_context("spawn")
    meeting = f"file://{folder}/meeting"
    ranks: dict[Connection, tuple[int, SpawnProcess]] = {}
    with _environment(_rank_environment(hal.choose(accelerator), world_size)):
        for rank in range(world_size):
            receiver, sender = processes.Pipe(duplex=False)
            given = (sender, function, rank, world_size, args, accelerator, meeting, timeout_seconds)
            process = processes.Process(target=_one_rank, args=given, daemon=True)
            process.start()
            sender.close()
            ranks[receiver] = (rank, process)
    try:
        return _results(ranks, seconds)
    finally:
        for _, process in ranks.values():
            process.kill()
            process.join()


def _rank_environment(accelerator: hal.Accelerator, world_size: int) -> Mapping[str, str]:
    """What a worker of a run starts with; all ranks are on this machine, so they talk over its loopback."""
    return {**accelerator.environment_defaults(processes_per_node=world_size), "GLOO_SOCKET_IFNAME": "lo"}


@contextmanager
def _environment(defaults: Mapping[str, str]) -> Generator[None]:
    """Processes that start inside find these variables, or the user's own."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _results(ranks: dict[Connection, tuple[int, SpawnProcess]], seconds: float) -> list[Any]:
    deadline = time.monotonic() + seconds
    results: dict[int, Any] = {}
    waiting = dict(ranks)
    while waiting:
        ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            stuck = sorted(rank for rank, _ in waiting.values())
            raise TimeoutError(f"ranks {stuck} were not done within {seconds:g} s")
        for connection in ready:
            assert isinstance(connection, Connection)
            rank, process = waiting.pop(connection)
            try:
                failure, results[rank] = connection.recv()
            except EOFError:
                process.join()
                raise RankError(f"rank {rank} died with exit code {process.exitcode}") from None
            if failure is not None:
                raise RankError(f"rank {rank} failed:\n{failure}")
    return [results[rank] for rank in sorted(results)]


def _one_rank(
    sender: Connection,
    function: Callable[..., Any],
    rank: int,
    world_size: int,
    args: tuple[Any, ...],
    name: str,
    meeting: str,
    timeout_seconds: float,
) -> None:
    torch.set_num_threads(1)
    try:
        accelerator = hal.choose(name)
        if accelerator.device_type != "cpu":
            accelerator.set_device(rank)
        hal.communication.initialize(
            accelerator,
            rank=rank,
            world_size=world_size,
            init_method=meeting,
            timeout_seconds=timeout_seconds,
        )
        result = function(rank, world_size, *args)
        # Before anybody hears of a result: a rank that leaves while others still talk to it would fail them.
        hal.communication.destroy()
        sender.send((None, result))
    except BaseException:  # noqa: BLE001  the parent raises it again, with this rank's traceback
        sender.send((traceback.format_exc(), None))
    sender.close()
