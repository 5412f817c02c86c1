"""Ranks of one engine take the same decisions; one that does not is found before the others wait for it for ever."""

import zlib
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist


def require_agreement(group: dist.ProcessGroup, what: str, mine: Mapping[int, tuple[int, ...]]) -> None:
    """`RuntimeError` on every rank of the engine if `mine` (by sample_id) is not the same on all.

    `group` holds the engine's ranks and works on the host."""
    if dist.get_world_size(group) == 1:
        return
    checksum = torch.tensor([zlib.crc32(repr(sorted(mine.items())).encode())])
    checksums = [torch.empty_like(checksum) for _ in range(dist.get_world_size(group))]
    dist.all_gather(checksums, checksum, group=group)
    if all(torch.equal(one, checksum) for one in checksums):
        return
    everyone: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everyone, dict(mine), group=group)
    different = sorted(
        sample_id
        for sample_id in set().union(*everyone)
        if len({repr(of_rank.get(sample_id)) for of_rank in everyone}) > 1
    )
    ranks = dist.get_process_group_ranks(group)
    shown = {rank: of_rank.get(different[0]) for rank, of_rank in zip(ranks, everyone, strict=True)}
    raise RuntimeError(
        f"the ranks {ranks} of one rollout engine disagree on {what}: "
        f"samples {different[:8]}; sample {different[0]} by rank: {shown}"
    )
