"""Which probabilities dropout keeps: decided by the seed and offset of the device's generator, the same ones again in
the backward."""

from collections.abc import Callable

import torch


def keeper(seed: int, offset: int, keep_prob: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that gives one tensor of probabilities after the other its factors: 1 / keep_prob, or 0."""
    if keep_prob == 1.0:
        return torch.ones_like
    # Philox's stream is set by both numbers; the host's generator has one.
    generator = torch.Generator().manual_seed((seed * 0x9E3779B1 + offset) % 2**63)

    def factors(probabilities: torch.Tensor) -> torch.Tensor:
        drawn = torch.rand(probabilities.shape, generator=generator)
        return (drawn < keep_prob).to(probabilities.dtype) / keep_prob

    return factors
