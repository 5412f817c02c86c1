"""Log-prob of given next tokens and entropy of their distribution, straight from hidden states."""

from dataclasses import replace
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist

from hal.kernels.sample import SMALL, Sample, normal


class TokenLogProbs(Protocol):
    """Signature of `reference`."""

    def __call__(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        *,
        temperature: float,
        vocab_size: int,
        group: dist.ProcessGroup | None = None,
        chunk_size: int = 256,
    ) -> tuple[torch.Tensor, torch.Tensor]: ...


def reference(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float,
    vocab_size: int,
    group: dist.ProcessGroup | None = None,
    chunk_size: int = 256,
) -> tuple[torch.Tensor, torch.Tensor]:
    """log softmax(hidden weight^T / temperature)[targets], and the entropy of the softmax.

    `hidden` [tokens, hidden_size]; `weight` [vocab_local, hidden_size]; `targets` [tokens] of ids in
    [0, vocab_size). Returns log-probs and entropies, [tokens] each, in float32 at least; both are differentiable.

    With a `group` the vocabulary is split over its ranks: rank r holds rows r * vocab_local and following. All
    ranks give the same `hidden` and `targets` and get the same results. The gradient of `hidden` is complete on
    every rank (summed over the group already); that of `weight` belongs to the rank's own rows. Every rank must
    take the same loss of the results.

    `vocab_size` counts real ids over all ranks; rows from there on are padding: probability and gradient zero.
    `chunk_size` bounds memory: a provider that works in pieces has at most the logits of that many tokens at once. It
    changes no result."""
    everything = weight if group is None else cast(torch.Tensor, _GatherRows.apply(weight, group))
    logits = (hidden @ everything[:vocab_size].T).to(torch.promote_types(hidden.dtype, torch.float32))
    log_probs = (logits / temperature).log_softmax(dim=-1)
    entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
    return log_probs.gather(1, targets[:, None])[:, 0], entropy


class _GatherRows(torch.autograd.Function):
    """Rows of all ranks one below the other; backward, each rank keeps the gradient of its own."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.rank, ctx.num_rows = dist.get_rank(group), rows.shape[0]
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, rows.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0].narrow(0, ctx.rank * ctx.num_rows, ctx.num_rows), None


def samples() -> list[Sample]:
    """With and without padding rows, at temperatures on both sides of 1, in one and in several pieces."""

    def call(
        name: str, tokens: int, rows: int, vocab_size: int, temperature: float, chunk_size: int
    ) -> Sample:
        targets = torch.randint(vocab_size, (tokens,), generator=torch.Generator().manual_seed(2))
        targets[0], targets[-1] = 0, vocab_size - 1
        options = {"temperature": temperature, "vocab_size": vocab_size, "chunk_size": chunk_size}
        tensors = (normal(tokens, 32, seed=0), 0.3 * normal(rows, 32, seed=1), targets)
        return Sample(name, tensors, options, replace(SMALL, vocab_size=vocab_size))

    return [
        call("one piece", 9, 96, 96, 1.0, 256),
        call("pieces of unequal length", 11, 96, 96, 0.7, 4),
        call("padded vocabulary", 9, 96, 81, 1.3, 4),
        call("one token", 1, 96, 96, 1.0, 256),
    ]
