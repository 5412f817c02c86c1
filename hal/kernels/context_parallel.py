"""Causal attention over sequences that are cut over several ranks, by any attention kernel.

Each sequence is cut into 2 * ranks equal chunks, and rank r holds chunks r and 2 * ranks - 1 - r, so that all ranks
have the same work under a causal mask: zigzag order, as in Megatron-core's context parallelism. As in Llama 3
(arXiv:2407.21783, section 3.3.2), every rank gathers all keys and values; on the way back their gradients are added up
and scattered. It calls the kernel twice: its early chunks over all keys up to them, and its late chunks over all keys
up to those. Both are causal attention aligned to the end, so that the kernel knows nothing of other ranks.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist

from hal.kernels.attention import Attention


def context_parallel_attention(
    kernel: Attention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    group: dist.ProcessGroup,
    softmax_scale: float,
    dropout_p: float = 0.0,
    cu_seqlens: torch.Tensor | None = None,
    max_seqlen: int | None = None,
) -> torch.Tensor:
    """This rank's part of the attention of the whole sequences; every rank of `group` calls it.

    Dense: `query` [batch, part, heads, head_dim], `key` and `value` [batch, part, kv_heads, ...], of each row this
    rank's two chunks -> [batch, part, heads, value_head_dim]. Packed: the same without the batch, of each sequence this
    rank's two chunks, one sequence after the other; `cu_seqlens` and `max_seqlen` are those of the whole sequences.
    `zigzag` cuts a whole tensor this way. Gradients of `key` and `value` are complete: sums over all ranks' queries.

    Raises ValueError for a length that is no multiple of twice the number of ranks."""
    world_size, rank = dist.get_world_size(group), dist.get_rank(group)
    packed = cu_seqlens is not None
    # The sequence comes first: a dense batch is one packed sequence with wider tokens.
    tensors = [tensor if packed else tensor.transpose(0, 1) for tensor in (query, key, value)]
    cut = _Cut.of(tensors[0].shape[0] * world_size, cu_seqlens, world_size)
    q, k, v = tensors[0], _gather(tensors[1], group), _gather(tensors[2], group)
    chunks = (rank, 2 * world_size - 1 - rank)
    rows = [cut.rows(late).to(q.device) for late in (False, True)]
    outputs: list[torch.Tensor] = []
    for chunk, own in zip(chunks, rows, strict=True):
        seen = cut.keys_until(chunk).to(q.device)
        inputs = [q.index_select(0, own), k.index_select(0, seen), v.index_select(0, seen)]
        if not packed:
            inputs = [tensor.transpose(0, 1) for tensor in inputs]
        lengths = cut.lengths(chunk, max_seqlen, q.device) if packed else {}
        output = kernel(*inputs, softmax_scale=softmax_scale, causal=True, dropout_p=dropout_p, **lengths)
        outputs.append(output if packed else output.transpose(0, 1))
    together = torch.cat(outputs).index_select(0, torch.cat(rows).argsort())
    return together if packed else together.transpose(0, 1)


def zigzag(
    whole: torch.Tensor, *, rank: int, world_size: int, dim: int, cu_seqlens: torch.Tensor | None = None
) -> torch.Tensor:
    """What `rank` holds of a tensor of whole sequences along `dim`: of each its chunks rank and 2 * ranks - 1 - rank."""
    cut = _Cut.of(whole.shape[dim], cu_seqlens, world_size)
    return whole.index_select(dim, cut.own(rank).to(whole.device))


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where the chunks of all sequences lie. Everything is on the host, int64."""

    sizes: torch.Tensor
    """[sequences]: tokens of one chunk."""
    world_size: int

    @staticmethod
    def of(num_tokens: int, cu_seqlens: torch.Tensor | None, world_size: int) -> "_Cut":
        """Of whole sequences; without `cu_seqlens` there is one of `num_tokens`."""
        whole = torch.tensor([num_tokens]) if cu_seqlens is None else cu_seqlens.cpu().long().diff()
        if bool((whole % (2 * world_size)).any()) or int(whole.sum()) != num_tokens:
            raise ValueError(
                f"sequences of {whole.tolist()} tokens, {num_tokens} over all {world_size} ranks, can't be cut: each "
                f"length must be a multiple of {2 * world_size}, and together they are all tokens; pad them"
            )
        return _Cut(whole // (2 * world_size), world_size)

    @property
    def starts(self) -> torch.Tensor:
        """[sequences]: tokens of a chunk of each sequence before."""
        return self.sizes.cumsum(0) - self.sizes

    def own(self, rank: int) -> torch.Tensor:
        """Places of a rank's tokens among those of whole sequences."""
        chunks = torch.tensor([rank, 2 * self.world_size - 1 - rank])
        return _ranges(2 * self.world_size * self.starts[:, None] + chunks * self.sizes[:, None], self.sizes)

    def rows(self, late: bool) -> torch.Tensor:
        """Places of the early or the late chunks among a rank's own tokens."""
        return _ranges((2 * self.starts + late * self.sizes)[:, None], self.sizes)

    def keys_until(self, chunk: int) -> torch.Tensor:
        """Places of chunks 0 .. `chunk` of each sequence, in that order, among the gathered tokens of all ranks."""
        number = torch.arange(chunk + 1)
        late = number >= self.world_size
        owner = torch.where(late, 2 * self.world_size - 1 - number, number)
        of_a_rank = 2 * int(self.sizes.sum())
        starts = owner * of_a_rank + 2 * self.starts[:, None] + late * self.sizes[:, None]
        return _ranges(starts, self.sizes)

    def lengths(self, chunk: int, max_seqlen: int | None, device: torch.device) -> dict[str, Any]:
        """What a packed call of one chunk a sequence over the keys up to it says about lengths."""
        queries = torch.nn.functional.pad(self.sizes.cumsum(0), (1, 0))
        longest = None if max_seqlen is None else max_seqlen // (2 * self.world_size)
        return {
            "cu_seqlens": queries.to(device, torch.int32),
            "cu_seqlens_k": (queries * (chunk + 1)).to(device, torch.int32),
            "max_seqlen": longest,
            "max_seqlen_k": None if longest is None else longest * (chunk + 1),
        }


def _ranges(starts: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """start, start + 1, .. start + size - 1 for each start [sequences, chunks], with one size [sequences] a row."""
    counts = sizes[:, None].expand_as(starts).flatten()
    before = counts.cumsum(0) - counts
    return (starts.flatten() - before).repeat_interleave(counts) + torch.arange(int(counts.sum()))


def _gather(tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    return cast(torch.Tensor, _Gather.apply(tensor, group))


class _Gather(torch.autograd.Function):
    """Tokens of all ranks, rank by rank; backward, each rank gets the sum of the gradients of its own."""

    # torch 2.13 has new names for both collectives, which torch 2.10 lacks.

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group, ctx.num_tokens = group, own.shape[0]
        everything = own.new_empty(own.shape[0] * dist.get_world_size(group), *own.shape[1:])
        dist.all_gather_into_tensor(everything, own.contiguous(), group=group)  # pyright: ignore[reportDeprecated]
        return everything

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        own = gradients[0].new_empty(ctx.num_tokens, *gradients[0].shape[1:])
        dist.reduce_scatter_tensor(own, gradients[0].contiguous(), group=ctx.group)  # pyright: ignore[reportDeprecated]
        return own, None
