"""Plan of Megatron `torch_dist` -> Hugging Face safetensors, for converted and for trained checkpoints."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from mindrl.checkpoint.byte_plan import CopyPlan, StoredTensor, Tile
from mindrl.checkpoint.expected import SavedTensor, find_tensor
from mindrl.checkpoint.formats.safetensors_files import lay_out
from mindrl.checkpoint.formats.torch_dist import Chunk, GlobalTensor
from mindrl.checkpoint.formats.torch_zip import locate_tensor
from mindrl.errors import RequestError
from mindrl.weight_maps import TensorRule, WeightMap

LARGEST_FILE_BYTES = 5 * 10**9


@dataclass(frozen=True)
class HfPlan:
    """What to copy, and the content of the index if there is more than one file."""

    copy: CopyPlan
    index: Mapping[str, Any] | None
    dtypes: frozenset[str]
    """Types of the resulting tensors."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A stored chunk of one layer's tensor, and its corner there."""

    stored: StoredTensor
    row: int
    column: int


def plan_mcore_to_hf(
    weights: WeightMap,
    checkpoint: Path,
    saved: Mapping[str, GlobalTensor],
    dtype: str | None,
    max_file_bytes: int = LARGEST_FILE_BYTES,
) -> HfPlan:
    """`saved`: the checkpoint's directory; `dtype`: of the result, or None to keep the checkpoint's."""
    locator = _Locator(checkpoint)
    sources: list[StoredTensor] = []
    dropped: list[Tile] = []
    outputs: list[tuple[str, tuple[int, ...], str, tuple[Tile, ...]]] = []
    try:
        for rule in weights.rules:
            found = find_tensor(rule, saved, weights)
            tensor, chunks = found.tensor, locator.chunks(found)
            sources += [chunk.stored for chunk in chunks]
            tiles = _tiles(rule, chunks)
            for source, source_tiles in zip(rule.hf, tiles, strict=True):
                outputs.append((source.name, source.shape, dtype or tensor.dtype, tuple(source_tiles)))
            dropped += _padding(rule, chunks)
    finally:
        locator.close()
    files, index = lay_out(outputs, max_file_bytes)
    plan = CopyPlan(tuple(sources), files, tuple(dropped))
    return HfPlan(plan, index, frozenset(output[2] for output in outputs))


class _Locator:
    """Finds the bytes of chunks in the checkpoint's files."""

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._files: dict[str, Any] = {}
        self._by_place: dict[str, dict[tuple[int, ...], list[Chunk]]] = {}

    def chunks(self, found: SavedTensor) -> list[_Placed]:
        """The weight's chunks, as matrices."""
        tensor, leading = found.tensor, len(found.index)
        placed: list[_Placed] = []
        for chunk in self._chunks_at(tensor, leading).get(found.index, ()):
            payload, shape, dtype = locate_tensor(self._open(chunk.file), chunk.offset, chunk.length)
            path = self._checkpoint / chunk.file
            if shape != chunk.sizes or dtype != tensor.dtype:
                raise RequestError(
                    f"{path} holds {dtype} {shape} where the checkpoint's metadata has "
                    f"{tensor.dtype} {chunk.sizes} of {tensor.key}."
                )
            name = f"{tensor.key} {chunk.offsets}"
            offsets = (*chunk.offsets[leading:], 0)
            placed.append(
                _Placed(StoredTensor(name, path, payload, shape[leading:], dtype), offsets[0], offsets[1])
            )
        return placed

    def _chunks_at(self, tensor: GlobalTensor, leading: int) -> dict[tuple[int, ...], list[Chunk]]:
        """Chunks by their place in the stack, each of which holds one weight's values only."""
        if tensor.key not in self._by_place:
            by_place: dict[tuple[int, ...], list[Chunk]] = defaultdict(list)
            for chunk in tensor.chunks:
                if any(size != 1 for size in chunk.sizes[:leading]):
                    raise RequestError(
                        f"{self._checkpoint} holds several weights of the stack {tensor.key} in one chunk "
                        f"({chunk.sizes} at {chunk.offsets}); Megatron-core saves one weight a chunk."
                    )
                by_place[chunk.offsets[:leading]].append(chunk)
            self._by_place[tensor.key] = by_place
        return self._by_place[tensor.key]

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _open(self, name: str) -> Any:
        if name not in self._files:
            path = self._checkpoint / name
            try:
                self._files[name] = path.open("rb")
            except OSError as error:
                raise RequestError(
                    f"{path}, which the checkpoint's metadata names, can't be read: {error.strerror}."
                ) from error
        return self._files[name]


def _tiles(rule: TensorRule, chunks: list[_Placed]) -> list[list[Tile]]:
    """Tiles of each Hugging Face tensor of the rule."""
    tiles: list[list[Tile]] = [[] for _ in rule.hf]
    block_row = 0
    for block in rule.blocks:
        for chunk in chunks:
            first = max(block_row, chunk.row)
            last = min(block_row + block.num_rows, chunk.row + chunk.stored.rows)
            if first < last:
                tiles[block.source].append(
                    Tile(
                        source=chunk.stored,
                        source_row=first - chunk.row,
                        source_column=0,
                        row=block.start_row + first - block_row,
                        column=chunk.column,
                        num_rows=last - first,
                        num_columns=prod(chunk.stored.shape[1:]),
                    )
                )
        block_row += block.num_rows
    return tiles


def _padding(rule: TensorRule, chunks: list[_Placed]) -> list[Tile]:
    """Rows below the vocabulary."""
    rows = rule.megatron_shape[0]
    return [
        Tile(
            chunk.stored,
            first - chunk.row,
            0,
            0,
            0,
            chunk.row + chunk.stored.rows - first,
            chunk.stored.columns,
        )
        for chunk in chunks
        if (first := max(rows, chunk.row)) < chunk.row + chunk.stored.rows
    ]
