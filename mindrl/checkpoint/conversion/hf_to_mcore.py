"""Plan of Hugging Face safetensors -> Megatron `torch_dist`."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod

import torch

from mindrl.checkpoint.byte_plan import ITEM_SIZES, CopyPlan, OutputFile, Record, StoredTensor, Tile
from mindrl.checkpoint.formats.torch_dist import Chunk, GlobalTensor, SavedObject
from mindrl.checkpoint.formats.torch_zip import TensorArchive
from mindrl.errors import RequestError
from mindrl.weight_maps import TensorRule, WeightMap, extra_state_keys

DEFAULT_PARTS = 8
"""Megatron's loader reads whole chunks, so a weight is saved in as many parts as tensor parallelism may want."""
SMALLEST_PART_BYTES = 64 << 10
LARGEST_PART_BYTES = 512 << 20
LARGEST_FILE_BYTES = 4 << 30


@dataclass(frozen=True)
class McorePlan:
    """What to copy, and the directory of the result."""

    copy: CopyPlan
    tensors: tuple[GlobalTensor, ...]
    objects: tuple[SavedObject, ...]


def plan_hf_to_mcore(
    weights: WeightMap,
    stored: Mapping[str, StoredTensor],
    dtype: str | None,
    tensor_parallel_size: int | None,
    expert_tensor_parallel_size: int | None = None,
) -> McorePlan:
    """`stored`: exactly the map's tensors; `dtype`: of the result, or None to keep the source's.

    The sizes are hints for the number of parts."""
    writer = _Writer()
    objects = tuple(writer.add_object(key) for key in extra_state_keys(weights))
    chunks: dict[str, list[Chunk]] = {}
    dtypes: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for rule in weights.rules:
        sources = [stored[source.name] for source in rule.hf]
        rule_dtype = _dtype(rule, sources, dtype)
        if dtypes.setdefault(rule.checkpoint_key, rule_dtype) != rule_dtype:
            raise RequestError(
                f"{sources[0].name} is {rule_dtype}, the same weight of other layers "
                f"{dtypes[rule.checkpoint_key]}: give one type with --params-dtype."
            )
        wanted = expert_tensor_parallel_size or 1 if rule.expert is not None else tensor_parallel_size
        parts = _parts(rule, rule_dtype, wanted)
        for key in (rule.checkpoint_key, *rule.other_keys):
            dtypes[key], shapes[key] = rule_dtype, rule.checkpoint_shape
            chunks.setdefault(key, []).extend(
                writer.add_tensor(rule, key, part, sources, rule_dtype) for part in parts
            )
    tensors = tuple(GlobalTensor(key, shapes[key], dtypes[key], tuple(chunks[key])) for key in chunks)
    return McorePlan(CopyPlan(tuple(stored.values()), writer.files()), tensors, objects)


@dataclass(frozen=True, slots=True)
class _Part:
    """A rectangle of the full Megatron tensor."""

    row: int
    column: int
    num_rows: int
    num_columns: int


class _Writer:
    """Places archives one after another, in files of bounded size."""

    def __init__(self) -> None:
        self._files = [_File()]
        buffer = io.BytesIO()
        torch.save([None], buffer)
        self._empty_extra_state = buffer.getvalue()
        self._archives: dict[tuple[tuple[int, ...], str], tuple[TensorArchive, int]] = {}

    def add_object(self, key: str) -> SavedObject:
        """An empty extra state; TransformerEngine modules load one, local ones have none."""
        data = self._empty_extra_state
        name, offset = self._place(len(data))
        self._files[-1].literals.append((offset, data))
        return SavedObject(key, name, offset, len(data))

    def add_tensor(
        self, rule: TensorRule, key: str, part: _Part, sources: Sequence[StoredTensor], dtype: str
    ) -> Chunk:
        """Place one part of a rule's tensor, under one of its keys."""
        sizes, offsets = (part.num_rows,), (part.row,)
        if len(rule.megatron_shape) > 1:
            sizes, offsets = (*sizes, part.num_columns), (*offsets, part.column)
        sizes = (*(1 for _ in rule.stacked_at), *sizes)
        offsets = (*(place.index for place in rule.stacked_at), *offsets)
        archive, length = self._archive(sizes, dtype)
        name, offset = self._place(length)
        record = Record(
            name=f"{key} {offsets}",
            offset=offset + archive.head_size,
            rows=part.num_rows,
            columns=part.num_columns,
            dtype=dtype,
            tiles=tuple(_tiles(rule, part, sources)),
            envelope=archive,
            same_as="" if key == rule.checkpoint_key else f"{rule.checkpoint_key} {offsets}",
        )
        self._files[-1].records.append(record)
        return Chunk(offsets, sizes, name, offset, length)

    def files(self) -> tuple[OutputFile, ...]:
        return tuple(
            OutputFile(_file_name(number), file.size, tuple(file.records), tuple(file.literals))
            for number, file in enumerate(self._files)
        )

    def _archive(self, sizes: tuple[int, ...], dtype: str) -> tuple[TensorArchive, int]:
        """The container of a tensor, which thousands of experts share, and its length with the payload."""
        if (sizes, dtype) not in self._archives:
            archive = TensorArchive(sizes, dtype)
            length = archive.head_size + prod(sizes) * ITEM_SIZES[dtype] + archive.tail_size
            self._archives[sizes, dtype] = archive, length
        return self._archives[sizes, dtype]

    def _place(self, length: int) -> tuple[str, int]:
        if self._files[-1].size and self._files[-1].size + length > LARGEST_FILE_BYTES:
            self._files.append(_File())
        file = self._files[-1]
        offset, file.size = file.size, file.size + length
        return _file_name(len(self._files) - 1), offset


@dataclass
class _File:
    """A file that is being filled."""

    size: int = 0
    records: list[Record] = field(default_factory=list[Record])
    literals: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])


def _file_name(number: int) -> str:
    return f"__0_{number}.distcp"


def _tiles(rule: TensorRule, part: _Part, sources: Sequence[StoredTensor]) -> list[Tile]:
    tiles: list[Tile] = []
    block_row = 0
    for block in rule.blocks:
        first = max(block_row, part.row)
        last = min(block_row + block.num_rows, part.row + part.num_rows)
        if first < last:
            tiles.append(
                Tile(
                    source=sources[block.source],
                    source_row=block.start_row + first - block_row,
                    source_column=part.column,
                    row=first - part.row,
                    column=0,
                    num_rows=last - first,
                    num_columns=part.num_columns,
                )
            )
        block_row += block.num_rows
    return tiles


def _parts(rule: TensorRule, dtype: str, wanted: int | None) -> list[_Part]:
    """Cut along the axis that tensor parallelism cuts, gate and up halves each for itself, into `wanted` parts or
    (None) as many as are worth it."""
    rows, columns = rule.megatron_shape[0], prod(rule.megatron_shape[1:])
    halves = 2 if rule.partition == "gated_rows" else 1
    axis_length = columns if rule.partition == "columns" else rows // halves
    num_bytes = rows * columns * ITEM_SIZES[dtype] // halves
    if rule.partition == "replicated":
        wanted = 1
    elif wanted is None:
        wanted = min(DEFAULT_PARTS, max(1, num_bytes // SMALLEST_PART_BYTES))
    wanted = max(wanted, -(-num_bytes // LARGEST_PART_BYTES))
    # The vocabulary is rarely divisible (Megatron pads it); its parts may differ in size.
    count = min(wanted, axis_length) if rule.pads_vocabulary else _divisor(axis_length, wanted)
    bounds = [axis_length * index // count for index in range(count + 1)]
    spans = [(start, end - start) for start, end in pairwise(bounds)]
    if rule.partition == "columns":
        return [_Part(0, start, rows, length) for start, length in spans]
    return [
        _Part(half * axis_length + start, 0, length, columns)
        for half in range(halves)
        for start, length in spans
    ]


def _divisor(length: int, wanted: int) -> int:
    """Largest divisor of `length` that is at most `wanted`."""
    return next(count for count in range(min(wanted, length), 0, -1) if length % count == 0)


def _dtype(rule: TensorRule, sources: Sequence[StoredTensor], wanted: str | None) -> str:
    """Type of a rule's tensor in the result."""
    if wanted is not None and not rule.keeps_dtype:
        return wanted
    kinds = {source.value_dtype for source in sources}
    if len(kinds) > 1:
        names = ", ".join(f"{source.name} ({source.value_dtype})" for source in sources)
        raise RequestError(f"{names} become one Megatron tensor: give one type with --params-dtype.")
    return kinds.pop()
