"""npu_fusion_attention: dropout(softmax(scale * query key^T, masked)) value, forward and backward.

Arguments mean what torch_npu's documentation says of them (`_op_plugin_docs.py` in the wheel): see `layouts`, `masks`.
"""

from typing import Any

import torch

from hal.testing.virtual_npu.kernels import layouts, masks
from hal.testing.virtual_npu.kernels.dropout import keeper
from hal.testing.virtual_npu.kernels.host import on_host
from hal.testing.virtual_npu.kernels.refusals import refuse, refuse_if_given, refuse_unless_among

_UNLIMITED = 2147483647
_LANES = 8
"""The device stores statistics of the softmax this many times."""


def npu_fusion_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    head_num: int,
    input_layout: str,
    pse: torch.Tensor | None = None,
    padding_mask: torch.Tensor | None = None,
    atten_mask: torch.Tensor | None = None,
    scale: float = 1.0,
    keep_prob: float = 1.0,
    pre_tockens: int = _UNLIMITED,
    next_tockens: int = _UNLIMITED,
    inner_precise: int = 0,
    prefix: list[int] | None = None,
    actual_seq_qlen: list[int] | None = None,
    actual_seq_kvlen: list[int] | None = None,
    sparse_mode: int = 0,
    gen_mask_parallel: bool = True,
    sync: bool = False,
    softmax_layout: str = "",
    sink: torch.Tensor | None = None,
    dropout_mask: torch.Tensor | None = None,
    seed: int = 0,
    offset: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, int, int]:
    """-> attention like `query`, maxima and sums of the softmax, nothing, and the dropout mask's seed, offset, size."""
    operator = "npu_fusion_attention"
    refuse_if_given(
        operator, pse=pse, padding_mask=padding_mask, prefix=prefix, sink=sink, dropout_mask=dropout_mask
    )
    refuse_unless_among(operator, "softmax_layout", softmax_layout, ("", "TND"))
    if not 0 < keep_prob <= 1:
        refuse(operator, "keep_prob", keep_prob, "more than 0, at most 1")
    if keep_prob < 1 and query.device.type != "cpu":
        seed, offset = torch.ops.virtual_npu.draw(query.device.index)
    attention, maxima, sums, count = _forward(
        operator, query, key, value, head_num, input_layout, atten_mask, scale, keep_prob, pre_tockens, next_tockens,
        actual_seq_qlen, actual_seq_kvlen, sparse_mode, seed, offset,
    )  # fmt: skip
    return attention, maxima, sums, query.new_empty(0), seed, offset, count if keep_prob < 1 else 0


def npu_fusion_attention_grad(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dy: torch.Tensor,
    head_num: int,
    input_layout: str,
    *,
    pse: torch.Tensor | None = None,
    padding_mask: torch.Tensor | None = None,
    atten_mask: torch.Tensor | None = None,
    softmax_max: torch.Tensor | None = None,
    softmax_sum: torch.Tensor | None = None,
    softmax_in: torch.Tensor | None = None,
    attention_in: torch.Tensor | None = None,
    scale_value: float = 1.0,
    keep_prob: float = 1.0,
    pre_tockens: int = _UNLIMITED,
    next_tockens: int = _UNLIMITED,
    inner_precise: int = 0,
    seed: int = 0,
    offset: int = 0,
    numels: int = 0,
    prefix: list[int] | None = None,
    actual_seq_qlen: list[int] | None = None,
    actual_seq_kvlen: list[int] | None = None,
    sparse_mode: int = 0,
    gen_mask_parallel: bool = True,
    sync: bool = False,
    softmax_layout: str = "",
    sink: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """-> gradients of query, key and value, and two that are empty, as `pse` and `sink` are not given."""
    operator = "npu_fusion_attention_grad"
    refuse_if_given(operator, pse=pse, padding_mask=padding_mask, prefix=prefix, sink=sink)
    for name, tensor in (
        ("softmax_max", softmax_max),
        ("softmax_sum", softmax_sum),
        ("attention_in", attention_in),
    ):
        if tensor is None:
            refuse(operator, name, "not given", "what the forward returned")
    of_query, of_key, of_value = _backward(
        operator, query, key, value, dy, head_num, input_layout, atten_mask, softmax_max, softmax_sum, attention_in,
        scale_value, keep_prob, pre_tockens, next_tockens, actual_seq_qlen, actual_seq_kvlen, sparse_mode, seed, offset,
    )  # fmt: skip
    return of_query, of_key, of_value, query.new_empty(0), query.new_empty(0)


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """torch's own composition, where torch_npu's kernel would call Ascend's flash attention."""
    if (
        attn_mask is not None and attn_mask.dtype == torch.bool
    ):  # the composition takes what is added to the scores
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, float("-inf"))
    return torch.ops.aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )[0]


@on_host
def _forward(
    operator: str,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    head_num: int,
    input_layout: str,
    atten_mask: torch.Tensor | None,
    scale: float,
    keep_prob: float,
    pre_tokens: int,
    next_tokens: int,
    q_ends: list[int] | None,
    kv_ends: list[int] | None,
    sparse_mode: int,
    seed: int,
    offset: int,
) -> tuple[Any, ...]:
    layout, heads = layouts.read(operator, input_layout, query, key, value, head_num, q_ends, kv_ends)
    queries = layout.pieces(query, heads.query, layout.q_lengths)
    keys = layout.pieces(key, heads.key, layout.kv_lengths)
    values = layout.pieces(value, heads.key, layout.kv_lengths)
    mask = masks.read(
        operator, atten_mask, sparse_mode, pre_tokens, next_tokens, _scores(queries, keys), packed=layout.q_lengths is not None
    )  # fmt: skip
    factors = keeper(seed, offset, keep_prob)
    outputs: list[torch.Tensor] = []
    statistics: list[tuple[torch.Tensor, torch.Tensor]] = []
    count = 0
    for q, k, v in zip(queries, keys, values, strict=True):
        group = heads.query // heads.key
        scores = _masked_scores(q, k.repeat_interleave(group, 1), scale, mask)
        probabilities, maximum, total = _softmax(scores)
        outputs.append((probabilities * factors(probabilities)) @ v.repeat_interleave(group, 1))
        statistics.append((maximum, total))
        count += probabilities.numel()
    maxima, sums = (_statistics([pair[i] for pair in statistics], layout) for i in (0, 1))
    return layout.whole(outputs, query), maxima, sums, count


@on_host
def _backward(
    operator: str,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dy: torch.Tensor,
    head_num: int,
    input_layout: str,
    atten_mask: torch.Tensor | None,
    softmax_max: torch.Tensor,
    softmax_sum: torch.Tensor,
    attention_in: torch.Tensor,
    scale: float,
    keep_prob: float,
    pre_tokens: int,
    next_tokens: int,
    q_ends: list[int] | None,
    kv_ends: list[int] | None,
    sparse_mode: int,
    seed: int,
    offset: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    layout, heads = layouts.read(operator, input_layout, query, key, value, head_num, q_ends, kv_ends)
    queries, grads = (layout.pieces(tensor, heads.query, layout.q_lengths) for tensor in (query, dy))
    keys, values = (layout.pieces(tensor, heads.key, layout.kv_lengths) for tensor in (key, value))
    mask = masks.read(
        operator, atten_mask, sparse_mode, pre_tokens, next_tokens, _scores(queries, keys), packed=layout.q_lengths is not None
    )  # fmt: skip
    factors = keeper(seed, offset, keep_prob)
    group = heads.query // heads.key
    of_queries: list[torch.Tensor] = []
    of_keys: list[torch.Tensor] = []
    of_values: list[torch.Tensor] = []
    for q, k, v, g in zip(queries, keys, values, grads, strict=True):
        wide_k, wide_v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        probabilities, _, _ = _softmax(_masked_scores(q, wide_k, scale, mask))
        kept = factors(probabilities)
        of_values.append(_summed((probabilities * kept).mT @ g, group))
        of_probabilities = (g @ wide_v.mT) * kept
        of_scores = probabilities * (
            of_probabilities - (of_probabilities * probabilities).sum(-1, keepdim=True)
        )
        of_queries.append(scale * of_scores @ wide_k)
        of_keys.append(_summed(scale * of_scores.mT @ q, group))
    return layout.whole(of_queries, query), layout.whole(of_keys, key), layout.whole(of_values, value)


def _scores(queries: list[torch.Tensor], keys: list[torch.Tensor]) -> tuple[int, int, int, int]:
    longest_q, longest_k = (max(piece.shape[2] for piece in pieces) for pieces in (queries, keys))
    return queries[0].shape[0], queries[0].shape[1], longest_q, longest_k


def _masked_scores(q: torch.Tensor, k: torch.Tensor, scale: float, mask: masks.Masks) -> torch.Tensor:
    scores = scale * q @ k.mT
    hidden = mask.hidden(q.shape[2], k.shape[2])
    return scores if hidden is None else scores.masked_fill(hidden, float("-inf"))


def _softmax(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Probabilities (zeros where all of a row is hidden), maxima and sums."""
    if scores.shape[-1] == 0:
        empty = scores.new_zeros(*scores.shape[:-1], 1)
        return scores, empty, empty
    maximum = scores.amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).min)
    exponentials = (scores - maximum).exp()
    total = exponentials.sum(-1, keepdim=True)
    return exponentials / total.clamp(min=torch.finfo(torch.float32).tiny), maximum, total


def _summed(grad: torch.Tensor, group: int) -> torch.Tensor:
    """Gradient of one key head from those of the query heads that share it."""
    batch, heads, *rest = grad.shape
    return grad.reshape(batch, heads // group, group, *rest).sum(2)


def _statistics(pieces: list[torch.Tensor], layout: layouts.Layout) -> torch.Tensor:
    """Dense: [batch, heads, sequence, 8]; packed: [tokens, heads, 8]."""
    if layout.q_lengths is None:
        return pieces[0].expand(*pieces[0].shape[:3], _LANES).contiguous()
    packed = torch.cat([piece[0].transpose(0, 1) for piece in pieces])
    return packed.expand(*packed.shape[:2], _LANES).contiguous()
