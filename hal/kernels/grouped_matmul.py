"""One matrix product an expert, each over its own rows (mixture of experts: Shazeer et al. 2017, arXiv:1701.06538)."""

from dataclasses import replace
from typing import Protocol, cast

import torch

from hal.kernels.sample import SMALL, Sample, normal


class GroupedMatmul(Protocol):
    """Signature of `reference`."""

    def __call__(
        self, x: torch.Tensor, weight: torch.Tensor, tokens_per_expert: torch.Tensor
    ) -> torch.Tensor: ...


def reference(x: torch.Tensor, weight: torch.Tensor, tokens_per_expert: torch.Tensor) -> torch.Tensor:
    """x[rows of expert e] @ weight[e], for every expert e.

    `x` [rows, in] sorted by expert; `weight` [experts, in, out], which may be a view of [experts, out, in];
    `tokens_per_expert` int64 [experts] on the host, adding up to `rows` -> [rows, out] in the type of `x`.
    Experts without rows are fine, and so is no row at all: the gradient of such a weight is there, and zero."""
    wide = torch.promote_types(x.dtype, torch.float32)
    parts = torch.split(x.to(wide), cast(list[int], tokens_per_expert.tolist()))
    return torch.cat([part @ expert.to(wide) for part, expert in zip(parts, weight, strict=True)]).to(x.dtype)


def samples() -> list[Sample]:
    """Even and uneven shares, experts without rows, one row, no rows, and a weight that lies transposed."""

    def call(
        name: str, counts: list[int], *, size_in: int = 32, size_out: int = 16, transposed: bool = False
    ) -> Sample:
        rows, experts = sum(counts), len(counts)
        weight = (
            normal(experts, size_out, size_in, seed=1).transpose(1, 2)
            if transposed
            else normal(experts, size_in, size_out, seed=1)
        )
        facts = replace(SMALL, hidden_size=size_in, num_experts=experts, expert_size=size_out)
        return Sample(
            name,
            (normal(rows, size_in, seed=0), weight),
            {"tokens_per_expert": torch.tensor(counts, dtype=torch.int64)},
            facts,
            on_host=frozenset({"tokens_per_expert"}),
        )

    return [
        call("equal shares", [6, 6, 6, 6]),
        call("unequal shares", [1, 17, 3, 8]),
        call("experts without rows", [0, 9, 0, 0, 4, 0]),
        call("one row", [0, 0, 1, 0]),
        call("no rows", [0, 0, 0]),
        call("one expert", [11]),
        call("transposed weight", [5, 0, 7, 2], transposed=True),
        call("sizes of no power of two", [3, 5, 4], size_in=21, size_out=13),
    ]
