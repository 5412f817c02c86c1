"""Attention over sequences that are cut over ranks equals attention over whole ones, gradients included."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from hal.kernels import attention
from hal.kernels.context_parallel import context_parallel_attention, zigzag
from hal.kernels.providers import torch_sdpa
from hal.kernels.sample import normal
from hal.kernels.tolerances import allowed
from hal.testing.kernel_checks import errors
from hal.testing.ranks import run_on_ranks

SCALE = 8**-0.5
PACKED = torch.tensor([0, 16, 24, 56], dtype=torch.int32)


def problem(*leading: int, value_dim: int = 8) -> list[torch.Tensor]:
    """Query, key and value with grouped heads, and a direction for the result."""
    return [
        normal(*leading, 4, 8, seed=0),
        normal(*leading, 2, 8, seed=1),
        normal(*leading, 2, value_dim, seed=2),
        normal(*leading, 4, value_dim, seed=3),
    ]


def result_and_gradients(
    function: Callable[..., torch.Tensor], tensors: list[torch.Tensor]
) -> list[torch.Tensor]:
    inputs = [tensor.clone().requires_grad_() for tensor in tensors[:3]]
    output = function(*inputs)
    return [output.detach(), *torch.autograd.grad(output, inputs, tensors[3])]


def ranks_equal_one(rank: int, world_size: int) -> None:
    for cu_seqlens, leading in ((None, (2, 24)), (PACKED, (56,))):
        options: dict[str, Any] = {} if cu_seqlens is None else {"cu_seqlens": cu_seqlens, "max_seqlen": 32}
        cut = partial(zigzag, rank=rank, world_size=world_size, dim=len(leading) - 1, cu_seqlens=cu_seqlens)
        for kernel in (torch_sdpa.attention, attention.reference):
            for dtype in (torch.float32, torch.bfloat16):
                for value_dim in (8, 6):
                    whole = [tensor.to(dtype) for tensor in problem(*leading, value_dim=value_dim)]
                    parts = result_and_gradients(
                        partial(
                            context_parallel_attention,
                            kernel,
                            group=dist.group.WORLD,
                            softmax_scale=SCALE,
                            **options,
                        ),
                        [cut(tensor) for tensor in whole],
                    )
                    exact = result_and_gradients(
                        partial(attention.reference, softmax_scale=SCALE, **options),
                        [tensor.double() for tensor in whole],
                    )
                    compare(parts, [cut(tensor) for tensor in exact], dtype)


def compare(found: list[torch.Tensor], exact: list[torch.Tensor], dtype: torch.dtype) -> None:
    of_results, of_gradients = allowed("attention", dtype)
    result, *gradients = errors(found, exact)
    assert result <= of_results, result
    assert max(gradients) <= of_gradients, gradients


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_together_compute_what_one_computes_dense_and_packed(world_size: int, tmp_path: Path) -> None:
    run_on_ranks(ranks_equal_one, world_size, tmp_path)


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
