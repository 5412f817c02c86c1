"""Attention with fewer queries than keys: aligned to the end, as a cut or a continued sequence needs it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hal.kernels import attention
from hal.kernels.providers import torch_sdpa
from hal.kernels.sample import normal

KERNELS = [torch_sdpa.attention, attention.reference]
SCALE = 8**-0.5


def heads(length: int, *, seed: int) -> torch.Tensor:
    return normal(1, length, 2, 8, seed=seed)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_sequence_in_pieces_is_the_sequence(kernel: Callable[..., Any]) -> None:
    query, key, value = (heads(12, seed=seed) for seed in range(3))
    whole = kernel(query, key, value, softmax_scale=SCALE)
    for start, end in ((0, 5), (5, 6), (6, 12)):
        piece = kernel(query[:, start:end], key[:, :end], value[:, :end], softmax_scale=SCALE)
        torch.testing.assert_close(piece, whole[:, start:end])


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_last_query_sees_every_key_and_the_first_all_but_the_last_ones(
    kernel: Callable[..., Any],
) -> None:
    value = torch.eye(5).expand(1, 1, 5, 5).transpose(1, 2)
    probabilities = kernel(torch.zeros(1, 3, 1, 8), torch.zeros(1, 5, 1, 8), value, softmax_scale=1.0)
    rows = [[1 / 3] * 3 + [0, 0], [1 / 4] * 4 + [0], [1 / 5] * 5]
    torch.testing.assert_close(probabilities[0, :, 0], torch.tensor(rows))


@pytest.mark.parametrize("kernel", KERNELS)
def test_more_queries_than_keys_are_refused_if_causal(kernel: Callable[..., Any]) -> None:
    query, key = heads(4, seed=0), heads(3, seed=1)
    with pytest.raises(ValueError, match="4 queries over 3 keys"):
        kernel(query, key, key, softmax_scale=SCALE)
    assert kernel(query, key, key, softmax_scale=SCALE, causal=False).shape == query.shape


@pytest.mark.parametrize("kernel", KERNELS)
def test_packed_pieces_have_key_lengths_of_their_own(kernel: Callable[..., Any]) -> None:
    lengths, lengths_k = [2, 1, 4], [5, 1, 6]
    query, key, value = (normal(sum(n), 2, 8, seed=i) for i, n in enumerate((lengths, lengths_k, lengths_k)))
    packed = kernel(
        query,
        key,
        value,
        softmax_scale=SCALE,
        cu_seqlens=torch.tensor([0, 2, 3, 7], dtype=torch.int32),
        max_seqlen=4,
        cu_seqlens_k=torch.tensor([0, 5, 6, 12], dtype=torch.int32),
        max_seqlen_k=6,
    )
    rows, keys = query.split(lengths), list(zip(key.split(lengths_k), value.split(lengths_k), strict=True))
    alone = [
        kernel(q[None], k[None], v[None], softmax_scale=SCALE)[0]
        for q, (k, v) in zip(rows, keys, strict=True)
    ]
    torch.testing.assert_close(packed, torch.cat(alone))
