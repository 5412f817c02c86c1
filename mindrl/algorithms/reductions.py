"""How token losses become one number, as one weight per response.

A reduction over the *global* mini-batch is written as ``sum over responses i, tokens t of weight_i * loss_it``. With
the weights known before the pass, the loss is a plain sum: micro-batches, packing and data parallelism can't change it.
"""

from collections.abc import Sequence
from typing import Literal

Reduction = Literal["token_mean", "sequence_mean", "sequence_sum"]


def token_weights(
    response_lengths: Sequence[int], reduction: Reduction, max_response_length: int
) -> list[float]:
    """Weight of each token loss of each response.

    Args:
        response_lengths: [num_samples] tokens that count in each response of the global mini-batch.
        reduction: `token_mean` averages over all tokens (Yu et al. 2025, DAPO); `sequence_mean` averages each response,
            then over responses (Shao et al. 2024, GRPO, equation 3); `sequence_sum` divides each response's sum
            by `max_response_length`, then averages over responses (Liu et al. 2025, Dr. GRPO).

    Returns:
        [num_samples] weights; an empty response has weight 0.
    """
    num_samples = len(response_lengths)
    if reduction == "token_mean":
        num_tokens = max(1, sum(response_lengths))
        return [1.0 / num_tokens if length else 0.0 for length in response_lengths]
    if reduction == "sequence_mean":
        return [1.0 / (num_samples * length) if length else 0.0 for length in response_lengths]
    return [1.0 / (num_samples * max_response_length) if length else 0.0 for length in response_lengths]
