"""Token log-probs in pieces: [tokens, vocabulary] never exists, forward or backward."""

from typing import Any, cast

import torch
import torch.distributed as dist

from hal.kernels.provider import Provider
from hal.kernels.providers.vocabulary import Distribution, VocabularyShard, add_product


def token_log_probs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float,
    vocab_size: int,
    group: dist.ProcessGroup | None = None,
    chunk_size: int = 256,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keeps hidden states and four numbers a token for the backward pass, which computes the logits again.

    A piece is all tokens and some ids, so that each row of the weight's gradient is written once, instead of being
    read and written again for every piece of tokens."""
    return cast(
        tuple[torch.Tensor, torch.Tensor],
        _TokenLogProbs.apply(hidden, weight, targets, temperature, vocab_size, group, chunk_size),
    )


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        temperature: float,
        vocab_size: int,
        group: dist.ProcessGroup | None,
        chunk_size: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shard = VocabularyShard(weight, targets, temperature, vocab_size, group)
        everyone, blocks = _everyone(hidden, shard, chunk_size)
        buffer = _buffer(hidden, blocks, shard)
        found = [shard.statistics(shard.logits(hidden, ids, buffer), ids, everyone) for ids in blocks]
        distribution = shard.distribution(found, targets)
        ctx.save_for_backward(hidden, weight, targets, *distribution)
        ctx.arguments = (temperature, vocab_size, group, chunk_size)
        ctx.set_materialize_grads(False)
        return distribution.log_probs, distribution.entropy

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets, *saved = ctx.saved_tensors
        temperature, vocab_size, group, chunk_size = ctx.arguments
        distribution, (d_log_prob, d_entropy) = Distribution(*saved), gradients
        if d_log_prob is None:
            d_log_prob = torch.zeros_like(distribution.entropy)
        shard = VocabularyShard(weight, targets, temperature, vocab_size, group)
        everyone, blocks = _everyone(hidden, shard, chunk_size)
        buffer, offset = _buffer(hidden, blocks, shard), distribution.largest + distribution.log_sum
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        # A sum over blocks: in float32, or narrow types lose what the later blocks add.
        d_hidden = hidden.new_zeros(hidden.shape, dtype=shard.wide) if needs_hidden else None
        d_weight = torch.empty_like(weight) if needs_weight else None
        for ids in blocks:
            logits = shard.logits(hidden, ids, buffer)
            d_logits = shard.logits_gradient(
                logits, ids, everyone, offset, distribution.entropy, d_log_prob, d_entropy
            ).to(hidden.dtype)
            if d_hidden is not None:
                add_product(d_hidden, d_logits, shard.weight[ids])
            if d_weight is not None:
                torch.mm(d_logits.T, hidden, out=d_weight[ids])
        if d_weight is not None:
            d_weight[blocks[-1].stop if blocks else 0 :].zero_()
        if d_hidden is not None:
            d_hidden = shard.sum_over_ranks(d_hidden).to(hidden.dtype)
        return d_hidden, d_weight, None, None, None, None, None


def _everyone(hidden: torch.Tensor, shard: VocabularyShard, chunk_size: int) -> tuple[slice, list[slice]]:
    """All tokens, and the blocks of ids that have as many logits as `chunk_size` tokens have of all ids."""
    return slice(0, hidden.shape[0]), shard.blocks(hidden.shape[0], chunk_size * shard.num_ids)


def _buffer(hidden: torch.Tensor, blocks: list[slice], shard: VocabularyShard) -> torch.Tensor:
    """Room for the logits of a block: the first is the largest."""
    width = blocks[0].stop if blocks else 0
    return hidden.new_empty(hidden.shape[0] * width, dtype=shard.wide)


PROVIDERS = (Provider("token_log_probs", "torch_chunked", token_log_probs),)
