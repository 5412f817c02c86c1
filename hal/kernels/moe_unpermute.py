"""The way back from `moe_permute`: each token is the sum of its rows."""

from typing import Protocol

import torch

from hal.kernels import moe_permute
from hal.kernels.sample import Sample, normal


class MoeUnpermute(Protocol):
    """Signature of `reference`."""

    def __call__(
        self,
        permuted: torch.Tensor,
        row_ids: torch.Tensor,
        probs: torch.Tensor | None = None,
        routing_map: torch.Tensor | None = None,
        *,
        num_tokens: int,
    ) -> torch.Tensor: ...


def reference(
    permuted: torch.Tensor,
    row_ids: torch.Tensor,
    probs: torch.Tensor | None = None,
    routing_map: torch.Tensor | None = None,
    *,
    num_tokens: int,
) -> torch.Tensor:
    """Sum of each token's rows, each times its prob if there are `probs`.

    `permuted` [rows, hidden] and `row_ids` int64 [rows] as `moe_permute` gives them; `probs` [num_tokens, experts]
    in any floating type come with the bool `routing_map` of the same shape -> [num_tokens, hidden] in the type of
    `permuted`, summed in float32 at least and rounded once. A token without rows is zero. Gradients go to `permuted`
    and `probs`."""
    wide = permuted.to(torch.promote_types(permuted.dtype, torch.float32))
    if probs is not None:
        wide = wide * row_probs(probs, row_ids, routing_map)[:, None]
    return wide.new_zeros(num_tokens, permuted.shape[1]).index_add(0, row_ids, wide).to(permuted.dtype)


def row_probs(probs: torch.Tensor, row_ids: torch.Tensor, routing_map: torch.Tensor | None) -> torch.Tensor:
    """[rows]: the prob of each row's token for the row's expert."""
    if routing_map is None:
        raise ValueError("probs say nothing about rows without the routing_map that the rows come from")
    return probs[row_ids, row_experts(routing_map, row_ids.shape[0])]


def row_experts(routing_map: torch.Tensor, num_rows: int) -> torch.Tensor:
    """int64 [rows]: the expert of each row, without waiting for the device."""
    ends = routing_map.sum(dim=0).cumsum(0)
    return torch.searchsorted(ends, torch.arange(num_rows, device=ends.device), right=True)


def samples() -> list[Sample]:
    """Every kind of map that `moe_permute` is tried on, with probs and without; rows that are slices."""
    found: list[Sample] = []
    for name, routing_map in moe_permute.maps().items():
        tokens, experts = routing_map.shape
        row_ids = routing_map.T.nonzero()[:, 1]
        facts = moe_permute.routing_facts(routing_map)
        rows, probs = normal(row_ids.shape[0], 32, seed=0), normal(tokens, experts, seed=1)
        options = {"num_tokens": tokens}
        found.append(Sample(name, (rows, row_ids), options, facts))
        found.append(Sample(f"{name}, with probs", (rows, row_ids, probs, routing_map), options, facts))
        sliced = normal(row_ids.shape[0], 3, 32, seed=2)[:, 1]
        found.append(Sample(f"{name}, rows are slices", (sliced, row_ids), options, facts))
    return found
