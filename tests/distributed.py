"""Run a function on several gloo ranks, with a time limit, and hand back what each rank returned.

The function must live at the top level of a module, because each rank imports it by name::

    def double_the_rank(offset: int) -> int:
        return 2 * torch.distributed.get_rank() + offset

    assert run_distributed(double_the_rank, 2, 5) == [5, 7]
"""

import faulthandler
import functools
import multiprocessing
import multiprocessing.context
import multiprocessing.forkserver
import os
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

SLOW_IMPORTS = [
    "torch",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.qwen3.modeling_qwen3",
    "mindrl.models.megatron",
]


def free_port() -> int:
    """A TCP port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_distributed(fn: Callable[..., Any], world_size: int, *args: Any, timeout: float = 120) -> list[Any]:
    """Call `fn(*args)` on `world_size` fresh processes joined by gloo; returns their results in rank order.

    Raises AssertionError with the traceback of the first rank that failed, or with the ranks that were still
    running after `timeout` seconds (each of them prints its stack to stderr just before)."""
    context = _context()
    with tempfile.TemporaryDirectory() as directory:
        port = free_port()
        ranks: dict[Connection, tuple[int, Any]] = {}
        for rank in range(world_size):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=_run_rank,
                args=(sender, rank, world_size, directory, port, timeout, fn, args),
                daemon=True,
            )
            process.start()
            sender.close()
            ranks[receiver] = (rank, process)
        try:
            return _collect(ranks, timeout)
        finally:
            for _, process in ranks.values():
                process.kill()
                process.join()


@functools.cache
def _context() -> multiprocessing.context.ForkServerContext:
    """Ranks are forked from one server that has imported the slow packages, which takes seconds, once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(SLOW_IMPORTS)
    previous = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        if previous is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = previous
    return context


def _collect(ranks: dict[Connection, tuple[int, Any]], timeout: float) -> list[Any]:
    deadline = time.monotonic() + timeout
    results: dict[int, Any] = {}
    waiting = dict(ranks)
    while waiting:
        ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            stuck = sorted(rank for rank, _ in waiting.values())
            raise AssertionError(f"ranks {stuck} still ran after {timeout} s; their stacks are on stderr")
        for connection in ready:
            rank, process = waiting.pop(connection)  # pyright: ignore
            try:
                succeeded, value = connection.recv()  # pyright: ignore
            except EOFError:
                process.join()
                raise AssertionError(f"rank {rank} died with exit code {process.exitcode}") from None
            if not succeeded:
                raise AssertionError(f"rank {rank} failed:\n{value}")
            results[rank] = value
    return [results[rank] for rank in sorted(results)]


def _run_rank(
    sender: Connection,
    rank: int,
    world_size: int,
    directory: str,
    port: int,
    timeout: float,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    faulthandler.dump_traceback_later(max(1.0, timeout - 3.0), file=sys.stderr)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        GLOO_SOCKET_IFNAME="lo",
        OMP_NUM_THREADS="1",
        TORCH_COMPILE_DISABLE="1",
    )
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "cpu:gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=world_size
    )
    try:
        value: tuple[bool, Any] = (True, fn(*args))
    except BaseException:  # noqa: BLE001  the parent raises it again, with this rank's traceback
        value = (False, traceback.format_exc())
    sender.send(value)
    sender.close()
    if value[0]:
        torch.distributed.destroy_process_group()
