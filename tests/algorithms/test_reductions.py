import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mindrl.algorithms.reductions import token_weights

lengths = st.lists(st.integers(0, 7), min_size=1, max_size=6)


def reduce_by_hand(losses: list[torch.Tensor], reduction: str, max_response_length: int) -> torch.Tensor:
    """The definitions, written as they are read."""
    if reduction == "token_mean":
        return torch.cat(losses).mean() if sum(map(len, losses)) else torch.tensor(0.0, dtype=torch.float64)
    per_response = [
        (part.mean() if reduction == "sequence_mean" else part.sum() / max_response_length)
        if len(part)
        else torch.tensor(0.0, dtype=torch.float64)
        for part in losses
    ]
    return torch.stack(per_response).mean()


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean", "sequence_sum"])
@given(lengths=lengths)
def test_weighted_sum_is_the_reduction(reduction, lengths):
    losses = [torch.rand(length, dtype=torch.float64) for length in lengths]
    weights = token_weights(lengths, reduction, max_response_length=8)
    found = sum(
        (weight * part.sum() for weight, part in zip(weights, losses, strict=True)), torch.tensor(0.0)
    )
    torch.testing.assert_close(found, reduce_by_hand(losses, reduction, 8), check_dtype=False)
