"""What AdamW keeps between steps, as parts of whole tensors, so that it is saved in one layout and loaded in another.

The distributed optimizer gives a data-parallel rank a span of the flattened parameters: it may start and end in the
middle of a row. In the checkpoint each moment is one tensor of its parameter's global shape, and a rank's share of it
a few rectangles. Megatron's own ways either load in the same layout only, or need the whole state on every rank (and
in 0.16.1 do not load into torch's AdamW).
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from math import prod
from typing import Any

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory
from megatron.core.optimizer import ChainedOptimizer

MAIN_WEIGHT = "param"
"""Key of the float32 weights in the checkpoint, beside the moments; the names are Megatron's."""


def sharded_state(optimizer: ChainedOptimizer, model_state: Mapping[str, Any]) -> dict[str, Any]:
    """This rank's share of main weights and moments, for `dist_checkpointing`, and the number of steps taken.

    The tensors are the optimizer's own: loading fills them in place. `model_state` is the model's sharded state dict,
    made of the parameters themselves."""
    homes = {home.data: home for home in nested_values(dict(model_state))}
    shards = [
        shard
        for param, start, tensors in _own_spans(optimizer)
        for name, flat in tensors.items()
        for shard in _shards(name, flat, start, homes[param])
    ]
    return {"step": _steps_taken(optimizer), "shards": dict(enumerate(shards))}


def load_state(optimizer: ChainedOptimizer, state: Mapping[str, Any]) -> None:
    """What loading in place has left open: the number of steps, by which AdamW corrects the bias of its moments."""
    for inner in _inner(optimizer):
        for param_state in inner.state.values():
            if "step" in param_state:
                param_state["step"] = torch.tensor(float(state["step"]))


def make_moments(optimizer: ChainedOptimizer) -> None:
    """What the first step of a fresh AdamW would make, so that there is something to load into."""
    for chained in optimizer.chained_optimizers:
        chained.init_state_fn(chained.optimizer, chained.config)
    for inner in _inner(optimizer):
        for param_state in inner.state.values():
            param_state.setdefault("step", torch.tensor(0.0))


def rectangles(
    shape: tuple[int, ...], start: int, stop: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Values `start` to `stop` of a flattened tensor as (offsets, sizes) of rectangles, in order.

    >>> list(rectangles((4, 3), 2, 10))  # the end of row 0, rows 1 and 2, the start of row 3
    [((0, 2), (1, 1)), ((1, 0), (2, 3)), ((3, 0), (1, 1))]
    """
    if start >= stop:
        return
    if len(shape) == 1:
        yield (start,), (stop - start,)
        return
    length = prod(shape[1:])
    first, last = -(-start // length), stop // length  # whole rows
    if first > last:
        yield from _within_row(shape, last, start, stop)
        return
    yield from _within_row(shape, first - 1, start, first * length)
    if first < last:
        yield (first, *(0 for _ in shape[1:])), (last - first, *shape[1:])
    yield from _within_row(shape, last, last * length, stop)


def _within_row(
    shape: tuple[int, ...], row: int, start: int, stop: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    begin = row * prod(shape[1:])
    for offsets, sizes in rectangles(shape[1:], start - begin, stop - begin):
        yield (row, *offsets), (1, *sizes)


def _own_spans(
    optimizer: ChainedOptimizer,
) -> Iterator[tuple[torch.nn.Parameter, int, dict[str, torch.Tensor]]]:
    """Every parameter this rank has a share of: where the share starts, and its flat tensors by name."""
    for chained in optimizer.chained_optimizers:
        buckets = chain.from_iterable(chain.from_iterable(b.values()) for b in chained.gbuf_ranges)
        for param, ranges in chain.from_iterable(bucket["param_map"].items() for bucket in buckets):
            group, place = chained.model_param_group_index_map[param]
            main = chained.optimizer.param_groups[group]["params"][place]
            moments = {key: value for key, value in chained.optimizer.state[main].items() if key != "step"}
            yield param, ranges["param"].start, {MAIN_WEIGHT: main.detach(), **moments}


def _shards(
    name: str, flat: torch.Tensor, start: int, home: ShardedTensor | ShardedTensorFactory
) -> Iterator[ShardedTensor]:
    """`flat`, whose values lie from `start` on in the parameter of `home`, as parts of a tensor shaped like it."""
    parts = home.build() if isinstance(home, ShardedTensorFactory) else [home]
    for part in parts:  # such as gate and up, which share a parameter and are apart in the checkpoint
        assert part.data.is_contiguous(), part.key
        begin = part.data.storage_offset() - home.data.storage_offset()
        lower, upper = max(start, begin), min(start + flat.numel(), begin + part.data.numel())
        leading = part.prepend_axis_num  # the layer, where layers are stacked
        used = lower - start
        for offsets, sizes in rectangles(part.local_shape, lower - begin, upper - begin):
            values = flat[used : used + prod(sizes)]
            used += prod(sizes)
            shape = (*(1 for _ in range(leading)), *sizes)
            yield ShardedTensor(
                key=f"optimizer.state.{name}.{part.key}",
                data=values.view(shape),
                dtype=flat.dtype,
                local_shape=shape,
                global_shape=part.global_shape,
                global_offset=tuple(
                    corner + offset
                    for corner, offset in zip(
                        part.global_offset, (*(0 for _ in range(leading)), *offsets), strict=True
                    )
                ),
                axis_fragmentations=None,  # no regular grid
                # The last number counts data-parallel ranks; their spans are different ones.
                replica_id=(*part.replica_id[:-1], 0),
                allow_shape_mismatch=part.allow_shape_mismatch,
            )


def _steps_taken(optimizer: ChainedOptimizer) -> int:
    steps = {
        int(holder["step"])
        for inner in _inner(optimizer)
        for holder in inner.state.values()
        if "step" in holder
    }
    assert len(steps) <= 1, f"parameters have taken {steps} steps"
    return max(steps, default=0)  # none on a rank that has no share


def _inner(optimizer: ChainedOptimizer) -> list[torch.optim.Optimizer]:
    return [chained.optimizer for chained in optimizer.chained_optimizers]
