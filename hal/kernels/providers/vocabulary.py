"""One rank's rows of the output weight, block by block: logits, what a softmax over all ranks needs of them, and
gradients of the logits."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist

_BLOCK_NUMBERS = {"cpu": 2**20}
"""Logits that a block has: on the host few enough that the passes over them stay in the cache."""
_BLOCK_NUMBERS_ELSEWHERE = 2**24
_LEAST_WIDTH = 512
"""Of a block that cache alone would make narrower: matrix products want that many columns."""


class Distribution(NamedTuple):
    """Of each token's next one, over all ranks: [tokens] each."""

    largest: torch.Tensor
    """Logit."""
    log_sum: torch.Tensor
    """log of the sum of exp(logit - largest). Kept apart from `largest`, which may be so much greater that the sum
    of both would lose digits of this one, and every log-prob with it."""
    entropy: torch.Tensor
    target: torch.Tensor
    """The target's logit; -inf where no rank holds the target, so that its log-prob says so."""

    @property
    def log_probs(self) -> torch.Tensor:
        """Of the targets."""
        return self.target - self.largest - self.log_sum


class Block(NamedTuple):
    """What one block of logits says about its tokens: [tokens] each, with x = logit - largest."""

    largest: torch.Tensor
    target: torch.Tensor
    """The target's logit, -inf if it is not in this block."""
    sum_exp: torch.Tensor
    """Of exp(x)."""
    sum_x_exp: torch.Tensor
    """Of x exp(x)."""


class VocabularyShard:
    """This rank's rows of the vocabulary, without the padding ones, and the targets as counted from its first row."""

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
        self.wide = torch.promote_types(weight.dtype, torch.float32)
        self._scale = 1 / temperature
        self._targets = targets - first
        self._group = group
        self._spare: torch.Tensor | None = None

    def blocks(self, num_tokens: int, most_numbers: int) -> list[slice]:
        """Ids of this rank in pieces whose logits of `num_tokens` tokens are at most `most_numbers`, or one id."""
        if num_tokens == 0 or self.num_ids == 0:
            return []
        in_cache = _BLOCK_NUMBERS.get(self.weight.device.type, _BLOCK_NUMBERS_ELSEWHERE) // num_tokens
        width = max(1, min(most_numbers // num_tokens, max(in_cache, _LEAST_WIDTH)))
        return list(pieces(self.num_ids, width))

    def logits(self, hidden: torch.Tensor, ids: slice, out: torch.Tensor) -> torch.Tensor:
        """[tokens, ids] over temperature, in the first part of the flat `out`, of float32 at least."""
        weight = self.weight[ids].T
        out = out[: hidden.shape[0] * weight.shape[1]].view(hidden.shape[0], weight.shape[1])
        if out.dtype == hidden.dtype:
            return torch.addmm(out, hidden, weight, beta=0, alpha=self._scale, out=out)
        out.copy_(hidden @ weight)
        return out if self._scale == 1 else out.mul_(self._scale)

    def statistics(self, logits: torch.Tensor, ids: slice, rows: slice) -> Block:
        """Of a block's logits, which become logit - largest."""
        largest = logits.amax(dim=-1)
        position, is_here = self._find(ids, rows)
        target = logits.gather(1, position[:, None])[:, 0].masked_fill(~is_here, -torch.inf)
        x = logits.sub_(largest[:, None])
        exp_x = torch.exp(x, out=self._scratch(x))
        sum_exp = exp_x.sum(dim=-1)
        return Block(largest, target, sum_exp, exp_x.mul_(x).sum(dim=-1))

    def distribution(self, blocks: Sequence[Block], targets: torch.Tensor) -> Distribution:
        """Of as many tokens as `targets` has, over all blocks of all ranks: two collectives, whatever the blocks."""
        nothing = torch.zeros(targets.shape, dtype=self.wide, device=targets.device)
        lowest = nothing + torch.finfo(self.wide).min / 2  # finite, and still so minus any logit
        blocks = [Block(lowest, nothing - torch.inf, nothing, nothing), *blocks]
        largest, target, *sums = (torch.stack(parts) for parts in zip(*blocks, strict=True))
        maxima = torch.stack((largest.amax(dim=0), target.amax(dim=0)))
        if self._group is not None:
            dist.all_reduce(maxima, op=dist.ReduceOp.MAX, group=self._group)
        lower = largest - maxima[0]  # a block's x is logit - its own largest; turn it to that of all
        totals = (torch.stack((sums[0], sums[1] + lower * sums[0])) * lower.exp()).sum(dim=1)
        totals = self.sum_over_ranks(totals)
        log_sum = totals[0].log()
        return Distribution(maxima[0], log_sum, log_sum - totals[1] / totals[0], maxima[1])

    def logits_gradient(
        self,
        logits: torch.Tensor,
        ids: slice,
        rows: slice,
        offset: torch.Tensor,
        entropy: torch.Tensor,
        d_log_prob: torch.Tensor,
        d_entropy: torch.Tensor | None,
    ) -> torch.Tensor:
        """Gradient of hidden states times weight, in place of a block of logits, of which log p = logit - `offset`.

        With one-hot t of the target: d log_prob / d logit = t - p, d entropy / d logit = -p (log p + entropy)."""
        d_log_prob = d_log_prob * self._scale
        gradient = logits.sub_(offset[:, None])
        if d_entropy is None:
            gradient.exp_().mul_(-d_log_prob[:, None])
        else:
            p = torch.exp(gradient, out=self._scratch(gradient))
            gradient.add_(entropy[:, None]).mul_((-self._scale * d_entropy)[:, None])
            gradient.sub_(d_log_prob[:, None]).mul_(p)
        position, is_here = self._find(ids, rows)
        return gradient.scatter_add_(1, position[:, None], torch.where(is_here, d_log_prob, 0)[:, None])

    def sum_over_ranks(self, tensor: torch.Tensor) -> torch.Tensor:
        """In place."""
        if self._group is not None:
            dist.all_reduce(tensor, group=self._group)
        return tensor

    def _scratch(self, like: torch.Tensor) -> torch.Tensor:
        """The same memory for every block: the first is the largest."""
        if self._spare is None:
            self._spare = torch.empty_like(like).flatten()
        return self._spare[: like.numel()].view_as(like)

    def _find(self, ids: slice, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Where in a block each target is [tokens], and whether it is there at all."""
        position = self._targets[rows] - ids.start
        is_here = (position >= 0) & (position < ids.stop - ids.start)
        return position.where(is_here, 0), is_here


def pieces(total: int, length: int) -> Iterator[slice]:
    """0 to `total` in pieces of `length`; the last may be shorter."""
    for start in range(0, total, length):
        yield slice(start, min(start + length, total))


def add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """total += a @ b, without a second matrix of that size where the types allow."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
