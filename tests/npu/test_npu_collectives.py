"""Collectives and messages through torch_npu's ProcessGroupHCCL, on two ranks with a device each."""

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import hal
from hal.testing.ranks import RankError, run_on_ranks

REDUCED = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.int8)
MOVED = (*REDUCED, torch.uint8, torch.bool, torch.float64)
LONG = 3 << 20
"""Items of float32 that no slot or box of shared memory holds at once."""
LIMIT_SECONDS = 2
Group = dist.ProcessGroup


def on_device(values: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor(values).to(hal.choose("npu").device(), dtype)


def all_reduce(rank: int, dtype: torch.dtype) -> Any:
    results: dict[str, list[float]] = {}
    for op in ("SUM", "PRODUCT", "MAX", "MIN"):
        x = on_device([rank + 1, 3 - rank], dtype)
        dist.all_reduce(x, getattr(dist.ReduceOp, op))
        results[op] = x.float().tolist()
    return results


def reduce(rank: int, dtype: torch.dtype) -> Any:
    x = on_device([rank + 1, 4], dtype)
    dist.reduce(x, 1)
    return x.tolist() if rank == 1 else None


def reduce_scatter(rank: int, dtype: torch.dtype) -> Any:
    x = on_device([0, 0], dtype)
    dist.reduce_scatter_tensor(x, on_device([1, 2, 3, 4 + rank], dtype))
    return x.tolist()


def broadcast(rank: int, dtype: torch.dtype) -> Any:
    x = on_device([rank, 1], dtype)
    dist.broadcast(x, 1)
    return x.tolist()


def all_gather(rank: int, dtype: torch.dtype) -> Any:
    x = on_device([0, 0, 0, 0], dtype)
    dist.all_gather_into_tensor(x, on_device([rank, 1], dtype))
    return x.tolist()


def all_gather_list(rank: int, dtype: torch.dtype) -> Any:
    parts = [on_device([0, 0], dtype) for _ in range(2)]
    dist.all_gather(parts, on_device([rank, 1], dtype))
    return [part.tolist() for part in parts]


def gather(rank: int, dtype: torch.dtype) -> Any:
    parts = [on_device([0, 0], dtype) for _ in range(2)] if rank == 0 else None
    dist.gather(on_device([rank, 1], dtype), parts, 0)
    return [part.tolist() for part in parts or []]


def scatter(rank: int, dtype: torch.dtype) -> Any:
    x = on_device([0, 0], dtype)
    dist.scatter(x, [on_device([part, 1], dtype) for part in (0, 1)] if rank == 0 else None, 0)
    return x.tolist()


def all_to_all(rank: int, dtype: torch.dtype) -> Any:
    x = on_device([0, 0], dtype)
    dist.all_to_all_single(x, on_device([rank, 1], dtype))
    return x.tolist()


def all_to_all_uneven(rank: int, dtype: torch.dtype) -> Any:
    """Rank 0 sends 1 and 2 items, rank 1 sends 3 and none."""
    sent, received = ([1, 2], [1, 3]) if rank == 0 else ([3, 0], [2, 0])
    x = on_device([0] * sum(received), dtype)
    dist.all_to_all_single(x, on_device([1, 0, 1], dtype), received, sent)
    return x.tolist()


def message(rank: int, dtype: torch.dtype) -> Any:
    x = on_device([1 - rank, 1 - rank], dtype)
    dist.send(x, 1) if rank == 0 else dist.recv(x, 0)
    return x.tolist()


def exchange(rank: int, dtype: torch.dtype) -> Any:
    """Both send before either receives: two messages each way, which keep their order."""
    sent = [on_device([rank, 1], dtype), on_device([1, rank], dtype)]
    received = [torch.zeros_like(x) for x in sent]
    calls = [dist.P2POp(dist.isend, x, 1 - rank) for x in sent]
    calls += [dist.P2POp(dist.irecv, x, 1 - rank) for x in received]
    for work in dist.batch_isend_irecv(calls):
        work.wait()
    return [x.tolist() for x in received]


MOVES: dict[Callable[[int, torch.dtype], Any], list[Any]] = {
    broadcast: [[1, 1], [1, 1]],
    all_gather: [[0, 1, 1, 1]] * 2,
    all_gather_list: [[[0, 1], [1, 1]]] * 2,
    gather: [[[0, 1], [1, 1]], []],
    scatter: [[0, 1], [1, 1]],
    all_to_all: [[0, 1], [1, 1]],
    all_to_all_uneven: [[1, 1, 0, 1], [0, 1]],
    message: [[1, 1], [1, 1]],
    exchange: [[[1, 1], [1, 1]], [[0, 1], [1, 0]]],
}
REDUCTIONS: dict[Callable[[int, torch.dtype], Any], list[Any]] = {
    all_reduce: [{"SUM": [3, 5], "PRODUCT": [2, 6], "MAX": [2, 3], "MIN": [1, 2]}] * 2,
    reduce: [None, [3, 8]],
    reduce_scatter: [[2, 4], [6, 9]],
}


def everything(rank: int, world_size: int) -> dict[str, Any]:
    """What every test here looks at, from one pair of processes: they take seconds to start."""
    results: dict[str, Any] = {}
    for calls, dtypes in ((MOVES, MOVED), (REDUCTIONS, REDUCED)):
        for call in calls:
            for dtype in dtypes:
                results[f"{call.__name__} {dtype}"] = call(rank, dtype)
    return {"every call": results, "long": long_ones(rank), "backends": backends(rank)}


@pytest.fixture(scope="module")
def done(npu: hal.Accelerator, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_on_ranks(everything, 2, tmp_path_factory.mktemp("ranks"), accelerator="npu")


def expected(rank: int) -> dict[str, Any]:
    return {
        f"{call.__name__} {dtype}": by_rank[rank]
        for calls, dtypes in ((MOVES, MOVED), (REDUCTIONS, REDUCED))
        for call, by_rank in calls.items()
        for dtype in dtypes
    }


def test_every_collective_and_message_carries_every_type(done: list[dict[str, Any]]) -> None:
    for rank, found in enumerate(done):
        assert found["every call"] == expected(rank)


def long_ones(rank: int) -> list[Any]:
    x = on_device([0.0]).new_full((LONG,), rank + 1.0)
    x[-1] = 7
    dist.all_reduce(x)
    gathered = x.new_empty(2 * LONG)
    dist.all_gather_into_tensor(gathered, x + rank)
    shared = x.new_empty(LONG // 2)
    dist.reduce_scatter_tensor(shared, x)
    received = torch.empty_like(x)
    calls = [dist.P2POp(dist.isend, x + rank, 1 - rank), dist.P2POp(dist.irecv, received, 1 - rank)]
    for work in dist.batch_isend_irecv(calls):
        work.wait()
    swapped = torch.empty_like(x)
    dist.all_to_all_single(swapped, x + 10 * rank)
    ends = (
        x[[0, -1]],
        gathered[[0, LONG - 1, LONG, -1]],
        shared[[0, -1]],
        received[[0, -1]],
        swapped[[0, -1]],
    )
    return [end.tolist() for end in ends]


def test_data_that_fits_into_no_slot_goes_in_pieces(done: list[dict[str, Any]]) -> None:
    first, second = (found["long"] for found in done)
    assert first == [[3, 14], [3, 14, 4, 15], [6, 6], [4, 15], [3, 13]]
    assert second == [[3, 14], [3, 14, 4, 15], [6, 28], [3, 14], [3, 24]]


def backends(rank: int) -> tuple[str, list[float], list[float], list[Any]]:
    device, host = on_device([1.0]), torch.ones(1)
    dist.all_reduce(device)
    dist.all_reduce(host)
    objects: list[Any] = [None, None]
    dist.all_gather_object(objects, {"rank": rank})
    pair = dist.new_group([0, 1])
    dist.all_reduce(device, group=pair)
    dist.barrier()
    return hal.choose("npu").communication_backend, device.tolist(), host.tolist(), objects


def test_one_group_serves_device_and_host(done: list[dict[str, Any]]) -> None:
    for found in done:
        assert found["backends"] == ("cpu:gloo,npu:hccl", [4], [2], [{"rank": 0}, {"rank": 1}])


def disagreements(rank: int, world_size: int) -> dict[str, tuple[str, float]]:
    """By case: the message that this rank gets, and the seconds it took. Each case has a group of its own."""
    found: dict[str, tuple[str, float]] = {}
    for name, call in CASES.items():
        group = dist.new_group([0, 1], backend="cpu:gloo,npu:hccl", timeout=timedelta(seconds=LIMIT_SECONDS))
        dist.all_reduce(on_device([1.0]), group=group)
        start = time.monotonic()
        try:
            call(rank, group)
            message = ""
        except RuntimeError as error:
            message = str(error)
        found[name] = (message, time.monotonic() - start)
        dist.all_reduce(torch.ones(1))  # on the host: both have come to the end of the case
    return found


@pytest.fixture(scope="module")
def disagreed(npu: hal.Accelerator, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_on_ranks(disagreements, 2, tmp_path_factory.mktemp("ranks"), accelerator="npu")


def different_calls(rank: int, group: Group) -> None:
    x = on_device([1.0, 2.0])
    dist.all_reduce(x, group=group) if rank == 0 else dist.broadcast(x, 0, group=group)


def different_sizes(rank: int, group: Group) -> None:
    dist.all_reduce(on_device([1.0] * (2 + rank)), group=group)


def different_splits(rank: int, group: Group) -> None:
    x = on_device([1.0, 2.0])
    dist.all_to_all_single(torch.empty_like(x), x, [1, 1], [1, 1] if rank == 0 else [2, 0], group)


def different_messages(rank: int, group: Group) -> None:
    if rank == 0:
        dist.send(on_device([1.0, 2.0]), 1, group)
    else:
        dist.recv(on_device([1, 2, 3], torch.int32), 0, group)


def float64_sum(rank: int, group: Group) -> None:
    dist.all_reduce(on_device([1.0], torch.float64), group=group)


def alone(rank: int, group: Group) -> None:
    if rank == 0:
        dist.all_reduce(on_device([1.0]), group=group)
    else:
        time.sleep(2 * LIMIT_SECONDS)


CASES: dict[str, Callable[[int, Group], None]] = {
    call.__name__: call
    for call in (different_calls, different_sizes, different_splits, different_messages, float64_sum, alone)
}
WORDS = {
    "different_calls": ("all ranks of a group make the same calls in the same order", 2),
    "different_sizes": ("called command 2 with 2 items of float32", 2),
    "different_splits": ("sends 2 items to rank 0, which expects 1", 1),
    "different_messages": ("3 items of int32 are expected from rank 0, which sends 2 of float32", 1),
    "float64_sum": ("type float64 with reduction 0", 2),
    "alone": ("waited 2 s for rank 1", 1),
}


@pytest.mark.parametrize("case", WORDS)
def test_ranks_that_disagree_are_told_so_within_the_groups_time_limit(
    disagreed: list[dict[str, Any]], case: str
) -> None:
    words, ranks = WORDS[case]
    found = [of_rank[case] for of_rank in disagreed]
    assert sum(words in message for message, _ in found) >= ranks, found
    assert all(seconds < 4 * LIMIT_SECONDS for _, seconds in found), found


def gone(rank: int, world_size: int) -> None:
    dist.barrier()
    if rank == 1:
        raise SystemExit(3)
    dist.all_reduce(on_device([1.0]))


def test_ranks_do_not_wait_for_one_that_has_died(npu: hal.Accelerator, tmp_path: Path) -> None:
    with pytest.raises(RankError):
        run_on_ranks(gone, 2, tmp_path, accelerator="npu", timeout_seconds=60)
