"""The same numbers, otherwise arranged in memory: what a kernel gets that is called from a real model.

A layout takes a call and returns an equal one. Everything that is no part of a tensor but lies between or around its
elements is NaN (for integers: a huge number), so that a kernel which reads there gives itself away.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from hal.kernels.sample import Sample

Layout = Callable[[torch.Tensor], torch.Tensor]


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    """Dimensions lie in memory in reverse order."""
    order = list(reversed(range(tensor.dim())))
    return tensor.permute(order).contiguous().permute(order)


def every_other(tensor: torch.Tensor) -> torch.Tensor:
    """Elements with gaps between them."""
    if tensor.dim() == 0:
        return tensor
    wide = _filled(tensor, (*tensor.shape[:-1], 2 * tensor.shape[-1]))
    view = wide[..., ::2]
    view.copy_(tensor)
    return view


def inside_another(tensor: torch.Tensor) -> torch.Tensor:
    """A box inside a larger tensor: one element more on each side of each dimension."""
    if tensor.dim() == 0:
        return tensor
    wide = _filled(tensor, tuple(size + 2 for size in tensor.shape))
    view = wide[tuple(slice(1, size + 1) for size in tensor.shape)]
    view.copy_(tensor)
    return view


LAYOUTS: Mapping[str, Layout] = {
    layout.__name__: layout for layout in (transposed, every_other, inside_another)
}


def arranged(sample: Sample, layout: Layout) -> Sample:
    """The call with all its positional tensors in this layout."""
    return replace(sample, tensors=[layout(tensor) for tensor in sample.tensors])


def _filled(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if tensor.is_floating_point():
        return tensor.new_full(shape, float("nan"))
    return tensor.new_full(shape, tensor.dtype == torch.bool or torch.iinfo(tensor.dtype).max)


def can_be_padded(op: str, sample: Sample) -> bool:
    """Whether tokens may follow that the others don't see."""
    return op in _PADDED and not (op == "attention" and not sample.options.get("causal", True))


def followed_by_padding(op: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel, called with a few tokens more, whose results are cut off again."""
    pad = _PADDED[op]

    def padded(*tensors: torch.Tensor, **options: Any) -> Any:
        return pad(function, tensors, options)

    return padded


_EXTRA = 3
"""Tokens of padding."""


def _longer(tensor: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """With garbage behind: numbers as large as activations get in integers, the first id, no expert at all."""
    shape = list(tensor.shape)
    shape[dim] = _EXTRA
    return torch.cat((tensor, tensor.new_full(shape, 100 if tensor.is_floating_point() else 0)), dim)


def _rows(
    function: Callable[..., Any], tensors: tuple[torch.Tensor, ...], options: dict[str, Any]
) -> torch.Tensor:
    """Ops that take each row by itself; `tensors[0]` has the rows."""
    return function(_longer(tensors[0]), *tensors[1:], **options)[: len(tensors[0])]


def _positions(
    function: Callable[..., Any], tensors: tuple[torch.Tensor, ...], options: dict[str, Any]
) -> torch.Tensor:
    """Rotary embedding: more positions."""
    return function(*map(_longer, tensors), **options)[: len(tensors[0])]


def _tokens(
    function: Callable[..., Any], tensors: tuple[torch.Tensor, ...], options: dict[str, Any]
) -> tuple[torch.Tensor, ...]:
    """Log-probs: more hidden states and targets, the same weight."""
    hidden, weight, targets = tensors
    results = function(_longer(hidden), weight, _longer(targets), **options)
    return tuple(result[: len(hidden)] for result in results)


def _sequences(
    function: Callable[..., Any], tensors: tuple[torch.Tensor, ...], options: dict[str, Any]
) -> torch.Tensor:
    """Attention: longer sequences where they are dense, one sequence more where they are packed."""
    dim = 1 if options.get("cu_seqlens") is None else 0
    for name in ("cu_seqlens", "cu_seqlens_k"):
        ends = options.get(name)
        if ends is not None:
            options = {**options, name: torch.cat((ends, ends[-1:] + _EXTRA))}
    output = function(*(_longer(tensor, dim) for tensor in tensors), **options)
    return output.narrow(dim, 0, tensors[0].shape[dim])


def _unrouted(
    function: Callable[..., Any], tensors: tuple[torch.Tensor, ...], options: dict[str, Any]
) -> tuple[torch.Tensor | None, ...]:
    """Permutation: tokens that go to no expert have no rows."""
    return function(*map(_longer, tensors), **options)


_PADDED: Mapping[str, Callable[..., Any]] = {
    "rms_norm": _rows,
    "swiglu": _rows,
    "rotary": _positions,
    "token_log_probs": _tokens,
    "attention": _sequences,
    "moe_permute": _unrouted,
}
