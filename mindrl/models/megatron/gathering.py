"""Whole tensors out of shards that lie on different ranks, a few at a time.

A shard goes from the pipeline stage that holds it to all stages, and an expert's from its expert-parallel rank to all
of them; then what tensor parallelism cut is put together. Small neighbours travel together: a layer of 128 experts
has 256 matrices.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from mindrl.weight_maps import TensorRule

PARCEL_BYTES = 64 * 2**20
"""Of shards that travel together, where a single one is not larger. Beside its own weights a rank holds a parcel of
each rank that the tensors are cut over, and one whole tensor."""

Shards = Mapping[str, torch.Tensor]
"""What a rank has, by a rule's Megatron name."""


@dataclass(frozen=True, slots=True)
class Route:
    """Which ranks have the shards of a tensor; the same on every rank."""

    stage: int
    expert_rank: int | None
    """None: no expert's."""
    is_cut: bool
    """Over tensor-parallel ranks, or those that share the experts' matrices."""
    dtype: torch.dtype


class Gathering:
    """The ways of one model's tensors. Every rank asks for the same tensors in the same order."""

    def __init__(self, stages: Mapping[str, int], num_experts: int) -> None:
        """`stages`: first pipeline stage that holds each parameter, by `parameter_name`. `num_experts`: of a layer, on
        one expert-parallel rank."""
        self._stages = stages
        self._num_experts = num_experts
        self._pipeline = parallel_state.get_pipeline_model_parallel_group()
        self._experts = parallel_state.get_expert_model_parallel_group()

    def whole(
        self, rules: Sequence[TensorRule], shards: Shards, like: torch.Tensor
    ) -> Iterator[tuple[TensorRule, torch.Tensor]]:
        """Every rule with its full Megatron tensor, padding included. All are of the type of `like`, but for those
        that keep float32, and on its device."""

        def route(rule: TensorRule) -> Route:
            return Route(
                stage=self._stages[parameter_name(rule)],
                expert_rank=None if rule.expert is None else rule.expert // self._num_experts,
                is_cut=rule.partition != "replicated" and cutting_group(rule).size() > 1,
                dtype=torch.float32 if rule.keeps_dtype else like.dtype,
            )

        for way, neighbours in groupby(rules, route):
            for parcel in _parcels(list(neighbours), way.dtype):
                yield from self._deliver(way, parcel, shards, like.device)

    def _deliver(
        self, way: Route, parcel: Sequence[TensorRule], shards: Shards, device: torch.device
    ) -> Iterator[tuple[TensorRule, torch.Tensor]]:
        is_everywhere = self._pipeline.size() == 1 and (way.expert_rank is None or self._experts.size() == 1)
        if is_everywhere and not way.is_cut:
            for rule in parcel:
                yield rule, shards[rule.megatron_name]
            return
        shapes = [shard_shape(rule) for rule in parcel]
        sizes = [prod(shape) for shape in shapes]
        if all(rule.megatron_name in shards for rule in parcel):
            flat = torch.cat([shards[rule.megatron_name].flatten() for rule in parcel])
        else:
            flat = torch.empty(sum(sizes), dtype=way.dtype, device=device)
        if way.expert_rank in (None, self._experts.rank()):
            _broadcast(flat, self._pipeline, way.stage)
        if way.expert_rank is not None:
            _broadcast(flat, self._experts, way.expert_rank)
        everyones = _from_all(flat, cutting_group(parcel[0])) if way.is_cut else [flat]
        cut = [values.split(sizes) for values in everyones]
        for place, (rule, shape) in enumerate(zip(parcel, shapes, strict=True)):
            yield rule, rule.unshard([values[place].view(shape) for values in cut])


def cutting_group(rule: TensorRule) -> dist.ProcessGroup:
    """The ranks over which this tensor is cut, if it is."""
    if rule.expert is None:
        return parallel_state.get_tensor_model_parallel_group()
    return parallel_state.get_expert_tensor_parallel_group()


def parameter_name(rule: TensorRule) -> str:
    """The parameter that holds the tensor: one for all of a rank's experts."""
    if rule.expert is None:
        return rule.megatron_name
    return rule.megatron_name.replace(f".experts.{rule.expert}.", ".experts.")


def shard_shape(rule: TensorRule) -> tuple[int, ...]:
    """Of every rank's part, padding of the vocabulary included."""
    rows, *rest = rule.megatron_shape
    size = cutting_group(rule).size()
    if rule.partition in ("rows", "gated_rows"):
        rows = -(-rows // size)
    elif rule.partition == "columns":
        rest[0] //= size
    return (rows, *rest)


def _parcels(rules: Sequence[TensorRule], dtype: torch.dtype) -> Iterator[Sequence[TensorRule]]:
    """Neighbours of up to `PARCEL_BYTES`, one at least."""
    parcel: list[TensorRule] = []
    num_bytes = 0
    for rule in rules:
        more = prod(shard_shape(rule)) * dtype.itemsize
        if parcel and num_bytes + more > PARCEL_BYTES:
            yield parcel
            parcel, num_bytes = [], 0
        parcel.append(rule)
        num_bytes += more
    yield parcel


def _broadcast(flat: torch.Tensor, group: dist.ProcessGroup, source: int) -> None:
    """From the group's rank `source` to all of it."""
    if group.size() > 1:
        dist.broadcast(flat, dist.get_global_rank(group, source), group=group)


def _from_all(flat: torch.Tensor, group: dist.ProcessGroup) -> list[torch.Tensor]:
    everyones = [torch.empty_like(flat) for _ in range(group.size())]
    dist.all_gather(everyones, flat, group=group)
    return everyones
