"""Sequences cut over ranks: who holds what, on one and on four ranks (`hal.testing` tests two, on every device)."""

from pathlib import Path

import pytest
import torch

from hal.kernels.context_parallel import zigzag
from hal.testing import context_parallel_checks
from hal.testing.ranks import run_on_ranks


@pytest.mark.parametrize("world_size", [1, 4])
def test_ranks_together_compute_what_one_computes_dense_and_packed(world_size: int, tmp_path: Path) -> None:
    run_on_ranks(context_parallel_checks.run_all, world_size, tmp_path, "cpu")


def test_each_rank_holds_an_early_and_a_late_chunk() -> None:
    tokens = torch.arange(24)
    dense = [zigzag(tokens[:8], rank=rank, world_size=2, dim=0).tolist() for rank in range(2)]
    assert dense == [[0, 1, 6, 7], [2, 3, 4, 5]]
    lengths = torch.tensor([0, 4, 4, 12], dtype=torch.int32)
    packed = [
        zigzag(tokens[:12], rank=rank, world_size=2, dim=0, cu_seqlens=lengths).tolist() for rank in range(2)
    ]
    assert packed == [[0, 3, 4, 5, 10, 11], [1, 2, 6, 7, 8, 9]]


@pytest.mark.parametrize(
    ("lengths", "said"), [([0, 8, 14, 24], "multiple of 4"), ([0, 8, 16], "24 over all 2 ranks")]
)
def test_lengths_that_cannot_be_cut_are_refused(lengths: list[int], said: str) -> None:
    cu_seqlens = torch.tensor(lengths, dtype=torch.int32)
    with pytest.raises(ValueError, match=said):
        zigzag(torch.arange(24), rank=0, world_size=2, dim=0, cu_seqlens=cu_seqlens)
