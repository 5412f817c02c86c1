"""Plan of Hugging Face safetensors -> Megatron `torch_dist`."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch

from mindrl.checkpoint.byte_plan import ITEM_SIZES, CopyPlan, OutputFile, Record, StoredTensor, Tile
from mindrl.checkpoint.formats.torch_dist import Chunk, GlobalTensor, SavedObject
from mindrl.checkpoint.formats.torch_zip import TensorArchive
from mindrl.errors import RequestError
from mindrl.weight_maps import Architecture, TensorRule, WeightMap

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
) -> McorePlan:
    """`stored`: exactly the map's tensors; `dtype`: of the result, or None to keep the source's."""
    writer = _Writer()
    objects = tuple(writer.add_object(key) for key in _extra_state_keys(weights.architecture))
    chunks: dict[str, list[Chunk]] = {}
    dtypes: dict[str, str] = {}
    for rule in weights.rules:
        sources = [stored[source.name] for source in rule.hf]
        rule_dtype = dtype or _common_dtype(sources)
        if dtypes.setdefault(rule.checkpoint_key, rule_dtype) != rule_dtype:
            raise RequestError(
                f"{sources[0].name} is {rule_dtype}, the same weight of other layers "
                f"{dtypes[rule.checkpoint_key]}: give one type with --params-dtype."
            )
        for part in _parts(rule, rule_dtype, tensor_parallel_size):
            chunk = writer.add_tensor(rule, part, sources, rule_dtype)
            chunks.setdefault(rule.checkpoint_key, []).append(chunk)
    tensors = tuple(
        GlobalTensor(key, rule.checkpoint_shape, dtypes[key], tuple(chunks[key]))
        for key, rule in {rule.checkpoint_key: rule for rule in weights.rules}.items()
    )
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
        self._file = self._position = 0
        self._records: list[tuple[str, Record]] = []
        self._literals: list[tuple[str, int, bytes]] = []
        self._sizes: dict[str, int] = {}
        buffer = io.BytesIO()
        torch.save([None], buffer)
        self._empty_extra_state = buffer.getvalue()

    def add_object(self, key: str) -> SavedObject:
        """An empty extra state; TransformerEngine modules load one, local ones have none."""
        data = self._empty_extra_state
        name, offset = self._place(len(data))
        self._literals.append((name, offset, data))
        return SavedObject(key, name, offset, len(data))

    def add_tensor(self, rule: TensorRule, part: _Part, sources: Sequence[StoredTensor], dtype: str) -> Chunk:
        """Place one part of a rule's tensor."""
        sizes, offsets = (part.num_rows,), (part.row,)
        if len(rule.megatron_shape) > 1:
            sizes, offsets = (*sizes, part.num_columns), (*offsets, part.column)
        sizes = (*(1 for _ in rule.stacked_at), *sizes)
        offsets = (*(place.index for place in rule.stacked_at), *offsets)
        archive = TensorArchive(sizes, dtype)
        length = archive.head_size + prod(sizes) * ITEM_SIZES[dtype] + archive.tail_size
        name, offset = self._place(length)
        record = Record(
            name=f"{rule.megatron_name} {offsets}",
            offset=offset + archive.head_size,
            rows=part.num_rows,
            columns=part.num_columns,
            dtype=dtype,
            tiles=tuple(_tiles(rule, part, sources)),
            envelope=archive,
        )
        self._records.append((name, record))
        return Chunk(offsets, sizes, name, offset, length)

    def files(self) -> tuple[OutputFile, ...]:
        return tuple(
            OutputFile(
                name,
                size,
                tuple(record for file, record in self._records if file == name),
                tuple((offset, data) for file, offset, data in self._literals if file == name),
            )
            for name, size in self._sizes.items()
        )

    def _place(self, length: int) -> tuple[str, int]:
        if self._position and self._position + length > LARGEST_FILE_BYTES:
            self._file, self._position = self._file + 1, 0
        offset, self._position = self._position, self._position + length
        name = f"__0_{self._file}.distcp"
        self._sizes[name] = self._position
        return name, offset


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


def _parts(rule: TensorRule, dtype: str, tensor_parallel_size: int | None) -> list[_Part]:
    """Cut along the axis that tensor parallelism cuts, gate and up halves each for itself."""
    rows, columns = rule.megatron_shape[0], prod(rule.megatron_shape[1:])
    halves = 2 if rule.partition == "gated_rows" else 1
    axis_length = columns if rule.partition == "columns" else rows // halves
    num_bytes = rows * columns * ITEM_SIZES[dtype] // halves
    wanted = 1
    if rule.partition != "replicated":
        affordable = max(1, num_bytes // SMALLEST_PART_BYTES)
        wanted = tensor_parallel_size or min(DEFAULT_PARTS, affordable)
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


def _common_dtype(sources: Sequence[StoredTensor]) -> str:
    kinds = {source.dtype for source in sources}
    if len(kinds) > 1:
        names = ", ".join(f"{source.name} ({source.dtype})" for source in sources)
        raise RequestError(f"{names} become one Megatron tensor: give one type with --params-dtype.")
    return kinds.pop()


def _extra_state_keys(arch: Architecture) -> list[str]:
    """Objects that a TransformerEngine model of this architecture asks for; a local one ignores them."""
    modules = ["self_attention.linear_qkv", "self_attention.linear_proj", "self_attention.core_attention"]
    if arch.qk_norm:
        modules += ["self_attention.q_layernorm", "self_attention.k_layernorm"]
    modules += ["mlp.linear_fc1", "mlp.linear_fc2"]
    layers = arch.num_layers
    keys = [
        f"decoder.layers.{module}._extra_state/shard_{layer}_{layers}"
        for module in modules
        for layer in range(layers)
    ]
    return [*keys, "decoder.final_layernorm._extra_state/shard_0_1"]
