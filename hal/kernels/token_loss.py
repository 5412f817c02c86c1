"""A loss that each token takes of its own log-prob and entropy, straight from hidden states, with gradients at once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
import torch.distributed as dist

from hal.kernels import token_log_probs
from hal.kernels.sample import Sample

LossOf = Callable[[torch.Tensor, torch.Tensor, slice], torch.Tensor]
"""(log-probs, entropies, which of the tokens they belong to) -> losses, of any shape: their sum counts.

Called once a piece of tokens. A token's loss may depend on its own log-prob and entropy only; it is differentiated on
the spot."""


class TokenLoss(Protocol):
    """Signature of `reference`."""

    def __call__(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        loss_of: LossOf,
        *,
        temperature: float,
        vocab_size: int,
        group: dist.ProcessGroup | None = None,
        chunk_size: int = 256,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]: ...


def reference(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    loss_of: LossOf,
    *,
    temperature: float,
    vocab_size: int,
    group: dist.ProcessGroup | None = None,
    chunk_size: int = 256,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum of `loss_of` over all tokens, and what it was taken of: log-probs and entropies [tokens], detached.

    Tensors, options and gradients are those of `token_log_probs`; so are the numbers of a provider of the same name,
    but for rounding. Because no token's loss depends on another token, a provider may form the gradients of `hidden` and `weight`
    along with the loss, three matrix products instead of four, and scale them in the backward pass, of which there
    is one. Such gradients are rounded to the type of `hidden` before they are scaled: in float16, let losses be of the
    size of 1 a token and weigh their sum. With a `group`, `loss_of` is called alike on all ranks."""
    log_probs, entropy = token_log_probs.reference(
        hidden,
        weight,
        targets,
        temperature=temperature,
        vocab_size=vocab_size,
        group=group,
        chunk_size=chunk_size,
    )
    loss = loss_of(log_probs, entropy, slice(0, hidden.shape[0])).sum()
    return loss, log_probs.detach(), entropy.detach()


def samples() -> list[Sample]:
    """Those of `token_log_probs`, each with a policy's clipped loss, and with one that an entropy is part of."""
    return [
        replace(sample, name=f"{sample.name}, {name}", options={**sample.options, "loss_of": loss_of})
        for sample in token_log_probs.samples()
        for name, loss_of in (("clipped", clipped_loss), ("with entropy", loss_with_entropy))
    ]


def clipped_loss(log_probs: torch.Tensor, entropy: torch.Tensor, rows: slice) -> torch.Tensor:
    """As equation 7 of Schulman et al. 2017 (arXiv:1707.06347), with ratios on both sides of the clip and inside."""
    advantages = _numbers(rows, log_probs)
    ratio = (0.1 * (log_probs + 4.5)).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)


def loss_with_entropy(log_probs: torch.Tensor, entropy: torch.Tensor, rows: slice) -> torch.Tensor:
    """A weighted log-prob, less a bonus for entropy."""
    return _numbers(rows, log_probs) * log_probs - 0.1 * entropy


def _numbers(rows: slice, like: torch.Tensor) -> torch.Tensor:
    """One between -1 and 1 for each token, whatever the piece it is in."""
    count = torch.arange(rows.start, rows.stop, device=like.device)
    return (((count * 37) % 64 - 31.5) / 32).to(like.dtype)
