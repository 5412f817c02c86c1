"""Layouts of attention's tensors, all brought to pieces of [batch, heads, sequence, head size]."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from hal.testing.virtual_npu.kernels.refusals import (
    FLOATS,
    refuse,
    refuse_other_types,
    refuse_unequal_types,
    refuse_unless_among,
)

LAYOUTS = ("BSH", "SBH", "BSND", "BNSD", "TND")
_MAX_HEADS = 256
_MAX_HEAD_DIM = 768
_MAX_SEQUENCES = 2048


@dataclass(frozen=True, slots=True)
class Layout:
    """How one call lays its tensors out. Heads, sizes and lengths are those of the query or of keys and values."""

    name: str
    q_lengths: tuple[int, ...] | None
    """Lengths of packed sequences; None for dense layouts."""
    kv_lengths: tuple[int, ...] | None

    def pieces(self, tensor: torch.Tensor, heads: int, lengths: tuple[int, ...] | None) -> list[torch.Tensor]:
        """Dense: one piece with all of the batch. Packed: one for each sequence. Float32."""
        wide = tensor.float()
        if lengths is not None:
            ends = list(itertools.accumulate(lengths))
            starts = [0, *ends[:-1]]
            return [wide[start:end].transpose(0, 1)[None] for start, end in zip(starts, ends, strict=True)]
        if self.name in ("BSH", "SBH"):
            wide = wide.reshape(*wide.shape[:-1], heads, -1)
        order = {"BSH": (0, 2, 1, 3), "SBH": (1, 2, 0, 3), "BSND": (0, 2, 1, 3), "BNSD": (0, 1, 2, 3)}[
            self.name
        ]
        return [wide.permute(order)]

    def whole(self, pieces: Iterable[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        """The inverse of `pieces`, in the type and (but for the head size) shape of `like`."""
        parts = list(pieces)
        if self.q_lengths is not None:
            packed = torch.cat([part[0].transpose(0, 1) for part in parts])
            result = like.new_zeros(like.shape[0], *packed.shape[1:])
            result[: packed.shape[0]] = packed
            return result
        order = {"BSH": (0, 2, 1, 3), "SBH": (2, 0, 1, 3), "BSND": (0, 2, 1, 3), "BNSD": (0, 1, 2, 3)}[
            self.name
        ]
        result = parts[0].permute(order)
        return (result.flatten(-2) if like.dim() == 3 else result).to(like.dtype).contiguous()


@dataclass(frozen=True, slots=True)
class Heads:
    """Heads of a call."""

    query: int
    key: int


def read(
    operator: str,
    name: str,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    head_num: int,
    actual_seq_qlen: list[int] | None,
    actual_seq_kvlen: list[int] | None,
) -> tuple[Layout, Heads]:
    """The layout and heads of a call, or a refusal."""
    refuse_unless_among(operator, "input_layout", name, LAYOUTS)
    refuse_other_types(operator, FLOATS, query=query)
    refuse_unequal_types(operator, query=query, key=key, value=value)
    wanted = 3 if name in ("BSH", "SBH", "TND") else 4
    for argument, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != wanted:
            refuse(
                operator, argument, f"of shape {list(tensor.shape)}", f"{wanted} dimensions, as {name} says"
            )
    heads = _heads(operator, name, query, key, value, head_num)
    if name != "TND":
        for argument, lengths in (
            ("actual_seq_qlen", actual_seq_qlen),
            ("actual_seq_kvlen", actual_seq_kvlen),
        ):
            if lengths is not None:
                refuse(
                    operator, argument, lengths, f"nothing: lengths go with layout TND, and this is {name}"
                )
        _refuse_unequal_sizes(operator, name, query, key, value)
        return Layout(name, None, None), heads
    q_lengths = _lengths(operator, "actual_seq_qlen", actual_seq_qlen, "query", query.shape[0])
    kv_lengths = _lengths(operator, "actual_seq_kvlen", actual_seq_kvlen, "key", key.shape[0])
    if len(q_lengths) != len(kv_lengths):
        refuse(
            operator,
            "actual_seq_kvlen",
            f"{len(kv_lengths)} lengths",
            f"{len(q_lengths)}, as in 'actual_seq_qlen'",
        )
    if key.shape[0] != value.shape[0]:
        refuse(operator, "value", f"of shape {list(value.shape)}", f"as many tokens as 'key', {key.shape[0]}")
    return Layout(name, q_lengths, kv_lengths), heads


def _heads(
    operator: str, name: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, head_num: int
) -> Heads:
    if not 1 <= head_num <= _MAX_HEADS:
        refuse(operator, "head_num", head_num, f"1 to {_MAX_HEADS}")
    if name in ("BSH", "SBH"):
        if query.shape[-1] % head_num:
            refuse(
                operator,
                "query",
                f"of shape {list(query.shape)}",
                f"a last size that 'head_num' {head_num} divides",
            )
        head_dim = query.shape[-1] // head_num
        if key.shape[-1] % head_dim:
            refuse(
                operator,
                "key",
                f"of shape {list(key.shape)}",
                f"a last size that the head size {head_dim} divides",
            )
        key_heads = key.shape[-1] // head_dim
        if value.shape[-1] % key_heads:
            refuse(
                operator,
                "value",
                f"of shape {list(value.shape)}",
                f"a last size that {key_heads} heads share",
            )
        key_dim, value_dim = head_dim, value.shape[-1] // key_heads
    else:
        axis = 1 if name in ("BNSD", "TND") else 2
        if query.shape[axis] != head_num:
            refuse(operator, "head_num", head_num, f"{query.shape[axis]}, the heads of 'query'")
        head_dim, key_dim, value_dim = query.shape[-1], key.shape[-1], value.shape[-1]
        key_heads = key.shape[axis]
        if value.shape[axis] != key_heads:
            refuse(operator, "value", f"of {value.shape[axis]} heads", f"{key_heads}, as 'key' has")
    if key_dim != head_dim:
        refuse(operator, "key", f"of head size {key_dim}", f"{head_dim}, that of 'query'")
    if value_dim > key_dim:
        refuse(operator, "value", f"of head size {value_dim}", f"at most {key_dim}, that of 'key'")
    if head_dim > _MAX_HEAD_DIM:
        refuse(operator, "query", f"of head size {head_dim}", f"at most {_MAX_HEAD_DIM}")
    if key_heads == 0 or head_num % key_heads:
        refuse(operator, "key", f"of {key_heads} heads", f"a divisor of 'head_num' {head_num}")
    return Heads(head_num, key_heads)


def _refuse_unequal_sizes(
    operator: str, name: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> None:
    batch, sequence = name.index("B"), name.index("S")
    for argument, tensor in (("key", key), ("value", value)):
        if tensor.shape[batch] != query.shape[batch]:
            refuse(
                operator,
                argument,
                f"of batch {tensor.shape[batch]}",
                f"{query.shape[batch]}, that of 'query'",
            )
    if key.shape[sequence] != value.shape[sequence]:
        refuse(
            operator, "value", f"of length {value.shape[sequence]}", f"{key.shape[sequence]}, that of 'key'"
        )


def _lengths(
    operator: str, argument: str, cumulative: list[int] | None, tensor_name: str, tokens: int
) -> tuple[int, ...]:
    """Lengths from cumulative ones; zeros at the end stand for sequences that take no part."""
    if not cumulative:
        refuse(
            operator,
            argument,
            cumulative,
            "the cumulative lengths of the sequences, as layout TND needs them",
        )
    if len(cumulative) > _MAX_SEQUENCES:
        refuse(operator, argument, f"{len(cumulative)} lengths", f"at most {_MAX_SEQUENCES}")
    ends = list(cumulative)
    while len(ends) > 1 and ends[-1] == 0:
        ends.pop()
    idle = len(cumulative) - len(ends)
    lengths = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    if min(lengths) < 0:
        refuse(operator, argument, cumulative, "cumulative lengths, which do not fall")
    if ends[-1] != tokens and not (idle and ends[-1] < tokens):
        refuse(
            operator,
            argument,
            f"cumulative lengths up to {ends[-1]}",
            f"up to {tokens}, the tokens of '{tensor_name}'",
        )
    return (*lengths, *[0] * idle)
