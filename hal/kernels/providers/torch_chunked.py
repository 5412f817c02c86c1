"""Token log-probs in pieces of a few tokens: [tokens, vocabulary] never exists, forward or backward."""

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist

from hal.kernels.provider import Provider


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
    """Keeps hidden states and two numbers a token for the backward pass, which computes the logits again."""
    return cast(
        tuple[torch.Tensor, torch.Tensor],
        _TokenLogProbs.apply(hidden, weight, targets, temperature, vocab_size, group, chunk_size),
    )


class _Distribution(NamedTuple):
    """Of each token's next one, over all ranks: [tokens] each."""

    largest: torch.Tensor
    """Logit."""
    log_sum: torch.Tensor
    """log of the sum of exp(logit - largest). Kept apart from `largest`, which may be so much greater that the sum
    of both would lose digits of this one, and every log-prob with it."""
    entropy: torch.Tensor


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
        shard = _Shard(weight, targets, temperature, vocab_size, group)
        pieces = [shard.statistics(hidden[rows], rows) for rows in _chunks(hidden.shape[0], chunk_size)]
        distribution, target_logits = _combine(pieces, hidden, group)
        ctx.save_for_backward(hidden, weight, targets, *distribution)
        ctx.arguments = (temperature, vocab_size, group, chunk_size)
        return target_logits - distribution.largest - distribution.log_sum, distribution.entropy

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets, *distribution = ctx.saved_tensors
        temperature, vocab_size, group, chunk_size = ctx.arguments
        shard = _Shard(weight, targets, temperature, vocab_size, group)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        d_hidden = torch.empty_like(hidden) if needs_hidden else None
        # Sums over many pieces: in float32, or narrow types lose what the later pieces add.
        d_weight = torch.zeros_like(weight, dtype=gradients[0].dtype) if needs_weight else None
        for rows in _chunks(hidden.shape[0], chunk_size):
            piece = _Distribution(*(tensor[rows] for tensor in distribution))
            d_logits = shard.logits_gradient(
                hidden[rows], rows, piece, gradients[0][rows], gradients[1][rows]
            )
            d_logits = d_logits.to(hidden.dtype)
            if d_hidden is not None:
                torch.mm(d_logits, shard.weight, out=d_hidden[rows])
            if d_weight is not None:
                _add_product(d_weight[: shard.num_ids], d_logits.T, hidden[rows])
        if d_hidden is not None and group is not None:
            dist.all_reduce(d_hidden, group=group)
        return d_hidden, None if d_weight is None else d_weight.to(weight.dtype), None, None, None, None, None


class _Shard:
    """This rank's rows of the vocabulary, without the padding ones."""

    def __init__(
        self,
        weight: torch.Tensor,
        targets: torch.Tensor,
        temperature: float,
        vocab_size: int,
        group: dist.ProcessGroup | None,
    ) -> None:
        first = 0 if group is None else dist.get_rank(group) * weight.shape[0]
        self.num_ids = min(max(vocab_size - first, 0), weight.shape[0])
        self.weight = weight[: self.num_ids]
        self.temperature = temperature
        self.local_targets = targets - first
        self.is_local = (self.local_targets >= 0) & (self.local_targets < self.num_ids)
        self.local_targets = self.local_targets.clamp(0, max(self.num_ids - 1, 0))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[chunk, ids of this rank] in float32 at least, free to be overwritten."""
        logits = hidden @ self.weight.T
        return logits.to(torch.promote_types(hidden.dtype, torch.float32)).div_(self.temperature)

    def statistics(self, hidden: torch.Tensor, rows: slice) -> torch.Tensor:
        """[4, chunk]: largest logit, target's logit (-inf if not here), and with x = logit - largest the sums of
        exp(x) and of exp(x) x."""
        logits = self.logits(hidden)
        if self.num_ids == 0:
            nothing = logits.new_zeros(logits.shape[0])
            lowest = nothing + torch.finfo(logits.dtype).min / 2  # finite, and still so minus any logit
            return torch.stack((lowest, nothing - torch.inf, nothing, nothing))
        largest = logits.amax(dim=-1)
        target = logits.gather(1, self.local_targets[rows, None])[:, 0]
        target = target.masked_fill(~self.is_local[rows], -torch.inf)
        x = logits.sub_(largest[:, None])
        exp_x = x.exp()
        return torch.stack((largest, target, exp_x.sum(dim=-1), x.mul_(exp_x).sum(dim=-1)))

    def logits_gradient(
        self,
        hidden: torch.Tensor,
        rows: slice,
        distribution: _Distribution,
        d_log_prob: torch.Tensor,
        d_entropy: torch.Tensor,
    ) -> torch.Tensor:
        """[chunk, ids of this rank]. With log p = logit - largest - log_sum, and one-hot t of the target:
        d log_prob / d logit = t - p, d entropy / d logit = -p (log p + entropy)."""
        log_p = self.logits(hidden).sub_(distribution.largest[:, None]).sub_(distribution.log_sum[:, None])
        p = log_p.exp()
        gradient = log_p.add_(distribution.entropy[:, None]).mul_(-d_entropy[:, None])
        gradient = gradient.sub_(d_log_prob[:, None]).mul_(p)
        if self.num_ids:
            at_target = torch.where(self.is_local[rows], d_log_prob, torch.zeros_like(d_log_prob))
            gradient.scatter_add_(1, self.local_targets[rows, None], at_target[:, None])
        return gradient.div_(self.temperature)


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """total += a @ b, without a second matrix of that size where the types allow."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def _chunks(num_tokens: int, chunk_size: int) -> Iterator[slice]:
    for start in range(0, num_tokens, chunk_size):
        yield slice(start, min(start + chunk_size, num_tokens))


def _combine(
    pieces: list[torch.Tensor], hidden: torch.Tensor, group: dist.ProcessGroup | None
) -> tuple[_Distribution, torch.Tensor]:
    """The distributions, and the targets' logits, over all ranks: two collectives a call.

    A target that no rank holds has logit -inf, so that its log-prob says so."""
    empty = hidden.new_empty((4, 0), dtype=torch.promote_types(hidden.dtype, torch.float32))
    statistics = torch.cat(pieces or [empty], dim=1)
    maxima, sums = statistics[:2].clone(), statistics[2:]
    if group is not None:
        dist.all_reduce(maxima, op=dist.ReduceOp.MAX, group=group)
        lower = statistics[0] - maxima[0]  # x of this rank is logit - its own largest; turn it to that of all
        sums = torch.stack((sums[0], sums[1] + lower * sums[0])) * lower.exp()
        dist.all_reduce(sums, group=group)
    log_sum = sums[0].log()
    return _Distribution(maxima[0], log_sum, log_sum - sums[1] / sums[0]), maxima[1]


PROVIDERS = (Provider("token_log_probs", "torch_chunked", token_log_probs),)
