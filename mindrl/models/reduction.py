"""Metric sums of all micro-batches and ranks, the same on every rank."""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist


def add_up(parts: Sequence[Mapping[str, torch.Tensor]], *, counts: bool = True) -> dict[str, float]:
    """Add scalars by name over this rank's micro-batches and over all ranks, in float64 and in rank order.

    `counts=False` on ranks whose numbers another rank of the same model copy reports too."""
    mine: dict[str, float] = {}
    if parts and counts:
        names = sorted(parts[0])
        rows = torch.stack([torch.stack([part[name].double() for name in names]) for part in parts])
        mine = dict(zip(names, rows.cpu().sum(0).tolist(), strict=True))
    by_rank: list[dict[str, float] | None] = [mine]
    if dist.is_initialized() and dist.get_world_size() > 1:
        by_rank = [None] * dist.get_world_size()
        dist.all_gather_object(by_rank, mine)
    totals: dict[str, float] = {}
    for sums in by_rank:
        for name, value in (sums or {}).items():
            totals[name] = totals.get(name, 0.0) + value
    return totals
