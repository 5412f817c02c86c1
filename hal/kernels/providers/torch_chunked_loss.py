"""A loss of token log-probs with its gradients, in pieces: [tokens, vocabulary] never exists."""

from typing import Any, cast

import torch
import torch.distributed as dist

from hal.kernels.provider import Provider
from hal.kernels.providers.torch_chunked import token_log_probs
from hal.kernels.providers.vocabulary import VocabularyShard, add_product, pieces
from hal.kernels.token_loss import LossOf


def token_loss(
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
    """Logits are computed once: a token's loss is known with its logits, and so are their gradients.

    A piece is `chunk_size` tokens and all ids. The gradients wait for the backward pass, the weight's in float32 at
    least; they are handed out once."""
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return cast(
            tuple[torch.Tensor, torch.Tensor, torch.Tensor],
            _TokenLoss.apply(hidden, weight, targets, loss_of, temperature, vocab_size, group, chunk_size),
        )
    log_probs, entropy = token_log_probs(
        hidden,
        weight,
        targets,
        temperature=temperature,
        vocab_size=vocab_size,
        group=group,
        chunk_size=chunk_size,
    )
    return loss_of(log_probs, entropy, slice(0, hidden.shape[0])).sum(), log_probs, entropy


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        loss_of: LossOf,
        temperature: float,
        vocab_size: int,
        group: dist.ProcessGroup | None,
        chunk_size: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        shard = VocabularyShard(weight, targets, temperature, vocab_size, group)
        num_tokens, most = hidden.shape[0], min(chunk_size, hidden.shape[0])
        blocks = shard.blocks(most, most * shard.num_ids)
        buffer = hidden.new_empty(most * shard.num_ids, dtype=shard.wide)
        loss, log_probs, entropy = (
            torch.zeros(size, dtype=shard.wide, device=hidden.device) for size in ((), num_tokens, num_tokens)
        )
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        d_hidden = hidden.new_zeros(hidden.shape, dtype=shard.wide) if needs_hidden else None
        d_weight = torch.zeros_like(weight, dtype=shard.wide) if needs_weight else None
        for rows in pieces(num_tokens, chunk_size):
            some = hidden[rows]
            parts = [shard.logits(some, ids, buffer[some.shape[0] * ids.start :]) for ids in blocks]
            found = [shard.statistics(part, ids, rows) for part, ids in zip(parts, blocks, strict=True)]
            distribution = shard.distribution(found, targets[rows])
            log_probs[rows], entropy[rows] = distribution.log_probs, distribution.entropy
            losses, d_log_prob, d_entropy = _differentiate(loss_of, log_probs[rows], entropy[rows], rows)
            loss += losses
            for ids, part, block in zip(blocks, parts, found, strict=True):
                offset = distribution.largest - block.largest + distribution.log_sum
                d_logits = shard.logits_gradient(
                    part, ids, rows, offset, distribution.entropy, d_log_prob, d_entropy
                ).to(hidden.dtype)
                if d_hidden is not None:
                    add_product(d_hidden[rows], d_logits, shard.weight[ids])
                if d_weight is not None:
                    add_product(d_weight[ids], d_logits.T, some)
        if d_hidden is not None:
            d_hidden = shard.sum_over_ranks(d_hidden)
        ctx.gradients = d_hidden, d_weight
        ctx.types = hidden.dtype, weight.dtype
        ctx.mark_non_differentiable(log_probs, entropy)
        return loss, log_probs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "token_loss hands its gradients out once; call it again for a second backward pass"
            )
        d_hidden, d_weight = (
            None if gradient is None else gradient.mul_(gradients[0]).to(dtype)
            for gradient, dtype in zip(ctx.gradients, ctx.types, strict=True)
        )
        ctx.gradients = None
        return d_hidden, d_weight, None, None, None, None, None, None


def _differentiate(
    loss_of: LossOf,
    log_probs: torch.Tensor,
    entropy: torch.Tensor,
    rows: slice,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Sum of the losses of some tokens, and its gradients; None for that of an entropy that is not used."""
    with torch.enable_grad():
        leaves = log_probs.detach().requires_grad_(), entropy.detach().requires_grad_()
        loss = loss_of(*leaves, rows).sum()
        if not loss.requires_grad:
            return loss, torch.zeros_like(log_probs), None
        d_log_prob, d_entropy = cast(
            tuple[torch.Tensor | None, torch.Tensor | None],
            torch.autograd.grad(loss, leaves, allow_unused=True),
        )
    if d_log_prob is None:
        d_log_prob = torch.zeros_like(log_probs)
    return loss.detach(), d_log_prob, d_entropy


PROVIDERS = (Provider("token_loss", "torch_chunked", token_loss),)
