"""What every communication backend must do, as functions that run on each of two ranks.

Tensors are small whole numbers, which every type holds exactly, so that results are compared exactly.
"""

import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

import hal

Check = Callable[[torch.device, int], None]
"""Takes this rank's device and its number, 0 or 1."""


def run_all(rank: int, world_size: int, accelerator: str) -> dict[str, str | None]:
    """Traceback by name of the check, None where it passed. Nothing runs after a check that failed: its ranks are
    no longer in step."""
    device = hal.choose(accelerator).device()
    outcome: dict[str, str | None] = {}
    for name, check in CHECKS.items():
        try:
            check(device, rank)
        except Exception:  # noqa: BLE001  the test of this name shows it
            outcome[name] = traceback.format_exc()
            break
        outcome[name] = None
    return outcome


def never_alone(rank: int, world_size: int, accelerator: str) -> None:
    """Rank 0 enters a collective that rank 1 stays away from."""
    if rank == 1:
        time.sleep(600)  # the parent ends it
    chosen = hal.choose(accelerator)
    total = torch.ones(4, device=chosen.device())
    dist.all_reduce(total)
    chosen.synchronize()


def reductions(device: torch.device, rank: int) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32):
        for op, expected in (
            (dist.ReduceOp.SUM, [3, 7, 11]),
            (dist.ReduceOp.MAX, [2, 4, 6]),
            (dist.ReduceOp.MIN, [1, 3, 5]),
            (dist.ReduceOp.PRODUCT, [2, 12, 30]),
        ):
            mine = torch.tensor([1, 3, 5], dtype=dtype, device=device) + rank
            dist.all_reduce(mine, op=op)
            assert mine.tolist() == expected, f"{dtype}, {op}"


def reduction_to_one_rank(device: torch.device, rank: int) -> None:
    mine = torch.tensor([1.0, 2.0], device=device) + rank
    dist.reduce(mine, dst=1)
    if rank == 1:
        assert mine.tolist() == [3, 5]


def reduction_in_the_background(device: torch.device, rank: int) -> None:
    parts = [torch.full((1000,), float(rank + index), device=device) for index in range(4)]
    works: list[Any] = [dist.all_reduce(part, async_op=True) for part in parts]
    for index, (part, work) in enumerate(zip(parts, works, strict=True)):
        work.wait()
        assert part.unique().tolist() == [2 * index + 1]


def broadcasts(device: torch.device, rank: int) -> None:
    for source in (0, 1):
        for dtype in (torch.float32, torch.int64, torch.bool, torch.uint8):
            mine = torch.full((3,), rank, device=device).to(dtype)
            dist.broadcast(mine, src=source)
            assert mine.long().tolist() == [source] * 3


def gathering(device: torch.device, rank: int) -> None:
    mine = torch.tensor([[rank, 10 + rank]], device=device, dtype=torch.bfloat16)
    parts = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(parts, mine)
    assert torch.cat(parts).tolist() == [[0, 10], [1, 11]]
    whole = mine.new_empty(2, 2)
    dist.all_gather_into_tensor(whole, mine)  # pyright: ignore[reportDeprecated]  torch 2.10 has no other
    assert whole.tolist() == [[0, 10], [1, 11]]


def gathering_on_one_rank_and_scattering(device: torch.device, rank: int) -> None:
    mine = torch.tensor([float(rank)], device=device)
    parts = [torch.empty_like(mine) for _ in range(2)] if rank == 0 else None
    dist.gather(mine, parts, dst=0)
    if parts is not None:
        assert [part.item() for part in parts] == [0, 1]
    given = [torch.tensor([5.0 + index], device=device) for index in range(2)] if rank == 0 else None
    dist.scatter(mine, given, src=0)
    assert mine.item() == 5 + rank


def reduction_and_scattering(device: torch.device, rank: int) -> None:
    mine = torch.arange(4, dtype=torch.float32, device=device) + 10 * rank
    expected = [[10, 12], [14, 16]][rank]
    share = mine.new_empty(2)
    dist.reduce_scatter_tensor(share, mine)  # pyright: ignore[reportDeprecated]
    assert share.tolist() == expected
    share = mine.new_empty(2)
    dist.reduce_scatter(share, list(mine.chunk(2)))
    assert share.tolist() == expected


def everybody_to_everybody(device: torch.device, rank: int) -> None:
    mine = torch.tensor([0.0, 1.0], device=device) + 10 * rank
    received = torch.empty_like(mine)
    dist.all_to_all_single(received, mine)
    assert received.tolist() == [rank, 10 + rank]
    parts = [torch.empty(1, device=device) for _ in range(2)]
    dist.all_to_all(parts, list(mine.chunk(2)))
    assert torch.cat(parts).tolist() == [rank, 10 + rank]


def unequal_shares_to_everybody(device: torch.device, rank: int) -> None:
    """As tokens go to experts; a share may be empty."""
    sent, taken = ([1, 2], [1, 3]) if rank == 0 else ([3, 0], [2, 0])
    mine = torch.arange(sum(sent), dtype=torch.float32, device=device) + 10 * rank
    received = mine.new_empty(sum(taken))
    dist.all_to_all_single(received, mine, output_split_sizes=taken, input_split_sizes=sent)
    assert received.tolist() == ([0, 10, 11, 12] if rank == 0 else [1, 2])


def sending_and_receiving(device: torch.device, rank: int) -> None:
    """One way and the other, waiting at once and later."""
    mine, received = torch.full((5,), float(rank), device=device), torch.empty(5, device=device)
    for sender in (0, 1):
        if rank == sender:
            dist.send(mine, dst=1 - rank)
        else:
            dist.recv(received, src=sender)
            assert received.tolist() == [sender] * 5
    work = dist.isend(mine + 7, dst=1) if rank == 0 else dist.irecv(received, src=0)
    assert work is not None
    work.wait()
    if rank == 1:
        assert received.tolist() == [7] * 5


def exchanging_in_one_batch(device: torch.device, rank: int) -> None:
    """As pipeline stages do: both directions are on their way before anybody waits."""
    mine, received = torch.full((5,), float(rank), device=device), torch.empty(5, device=device)
    works = dist.batch_isend_irecv(
        [dist.P2POp(dist.isend, mine, 1 - rank), dist.P2POp(dist.irecv, received, 1 - rank)]
    )
    for work in works:
        work.wait()
    assert received.tolist() == [1 - rank] * 5


def objects(device: torch.device, rank: int) -> None:
    everybody: list[object] = [None, None]
    dist.all_gather_object(everybody, {"rank": rank})
    assert everybody == [{"rank": 0}, {"rank": 1}]
    message: list[object] = [("from", rank)]
    dist.broadcast_object_list(message, src=1)
    assert message == [("from", 1)]


def host_tensors(device: torch.device, rank: int) -> None:
    total = torch.tensor([rank + 1])
    dist.all_reduce(total)
    assert total.item() == 3
    assert total.device.type == "cpu"


def groups_of_some_ranks(device: torch.device, rank: int) -> None:
    alone: list[Any] = [dist.new_group([member]) for member in (0, 1)]
    both = dist.new_group([0, 1])
    mine = torch.tensor([1.0 + rank], device=device)
    dist.all_reduce(mine, group=alone[rank])
    assert mine.item() == 1 + rank
    dist.all_reduce(mine, group=both)
    assert mine.item() == 3
    assert dist.get_rank(alone[rank]) == 0
    assert dist.get_rank(alone[1 - rank]) == -1


def barriers(device: torch.device, rank: int) -> None:
    dist.barrier()
    mine = torch.ones(1, device=device)
    dist.barrier()
    assert mine.item() == 1


def order_of_computation_and_communication(device: torch.device, rank: int) -> None:
    """A collective reads what was computed before it; what is computed after it reads its result."""
    total = torch.zeros(2**16, device=device)
    for _ in range(5):
        total += 1
        dist.all_reduce(total)
    assert total.unique().tolist() == [62]


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        reductions,
        reduction_to_one_rank,
        reduction_in_the_background,
        broadcasts,
        gathering,
        gathering_on_one_rank_and_scattering,
        reduction_and_scattering,
        everybody_to_everybody,
        unequal_shares_to_everybody,
        sending_and_receiving,
        exchanging_in_one_batch,
        objects,
        host_tensors,
        groups_of_some_ranks,
        barriers,
        order_of_computation_and_communication,
    )
}
