"""Rows of each expert one after the other: a token is copied once for every expert it is routed to."""

from dataclasses import replace
from typing import Protocol

import torch

from hal.kernels.facts import KernelFacts
from hal.kernels.sample import SMALL, Sample, normal


class MoePermute(Protocol):
    """Signature of `reference`."""

    def __call__(
        self,
        x: torch.Tensor,
        routing_map: torch.Tensor,
        probs: torch.Tensor | None = None,
        *,
        num_rows: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]: ...


def reference(
    x: torch.Tensor,
    routing_map: torch.Tensor,
    probs: torch.Tensor | None = None,
    *,
    num_rows: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Tokens sorted by expert, inside an expert in their own order.

    `x` [tokens, hidden]; `routing_map` bool [tokens, experts]: True where a token goes to an expert, any number a
    token, none included; `probs` [tokens, experts] in any floating type. Returns
    - the rows [rows, hidden], one for each True;
    - each row's prob [rows] in the type of `probs`, None without those;
    - int64 [rows]: the token of each row.

    Gradients go to `x` and `probs`. `num_rows` is the number of True, for callers that know it: on most devices
    finding it out means to wait for the device."""
    del num_rows
    expert, row_ids = routing_map.T.nonzero(as_tuple=True)
    return x[row_ids], None if probs is None else probs[row_ids, expert], row_ids


def routing(tokens: int, experts: int, top_k: int, *, seed: int) -> torch.Tensor:
    """bool [tokens, experts]: `top_k` experts a token, by chance."""
    chosen = normal(tokens, experts, seed=seed).topk(top_k, dim=1).indices
    return torch.zeros(tokens, experts, dtype=torch.bool).scatter_(1, chosen, True)


def maps() -> dict[str, torch.Tensor]:
    """Routing maps that differ in kind."""
    crowded = torch.zeros(6, 5, dtype=torch.bool)
    crowded[:, 3] = crowded[:, 1] = True
    dropped = routing(9, 4, 2, seed=3)
    dropped[2], dropped[7, :3] = False, False
    return {
        "top 1": routing(11, 4, 1, seed=0),
        "top 2": routing(13, 8, 2, seed=1),
        "all experts": torch.ones(5, 3, dtype=torch.bool),
        "one token": routing(1, 4, 2, seed=2),
        "experts without tokens": crowded,
        "dropped tokens": dropped,
        "equal capacity": routing(4, 8, 3, seed=4).T,
        "no tokens": torch.zeros(0, 4, dtype=torch.bool),
        "nothing is routed": torch.zeros(3, 4, dtype=torch.bool),
    }


def routing_facts(routing_map: torch.Tensor) -> KernelFacts:
    """A model that routes like this."""
    per_token = {int(count) for count in routing_map.sum(dim=1)}
    return replace(
        SMALL,
        num_experts=routing_map.shape[1],
        expert_size=16,
        experts_per_token=per_token.pop() or None if len(per_token) == 1 else None,
    )


def samples() -> list[Sample]:
    """Every kind of map, with probs, without, and with the number of rows known; rows that are slices."""
    found: list[Sample] = []
    for name, routing_map in maps().items():
        tokens, experts = routing_map.shape
        facts = routing_facts(routing_map)
        x, probs = normal(tokens, 32, seed=5), normal(tokens, experts, seed=6)
        known = {"num_rows": int(routing_map.sum())}
        found.append(Sample(name, (x, routing_map, probs), {}, facts))
        found.append(Sample(f"{name}, number of rows known", (x, routing_map, probs), known, facts))
    facts = routing_facts(routing(13, 8, 2, seed=1))
    sliced = normal(13, 3, 32, seed=7)[:, 1]
    found.append(Sample("without probs", (normal(13, 32, seed=5), routing(13, 8, 2, seed=1)), {}, facts))
    found.append(Sample("rows are slices", (sliced, routing(13, 8, 2, seed=1)), {}, facts))
    return found
