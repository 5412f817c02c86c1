"""Plan of a Megatron checkpoint -> Hugging Face safetensors, for converted and for trained checkpoints of any layout."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from mindrl.checkpoint.byte_plan import CopyPlan, OutputFile, StoredTensor, Tile
from mindrl.checkpoint.formats.safetensors_files import lay_out
from mindrl.checkpoint.saved_weights import SavedWeights
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


def plan_mcore_to_hf(
    weights: WeightMap, saved: SavedWeights, dtype: str | None, max_file_bytes: int = LARGEST_FILE_BYTES
) -> HfPlan:
    """`dtype`: of the result, or None to keep the checkpoint's."""
    saved.require_model(weights)
    sources: list[StoredTensor] = []
    dropped: list[Tile] = []
    outputs: dict[str, tuple[str, tuple[int, ...], str, tuple[Tile, ...]]] = {}
    for rule in weights.rules:
        tiles, rule_dtype = saved.tiles(rule), _dtype(rule, saved, dtype)
        sources += dict.fromkeys(tile.source for tile in tiles)
        dropped += _padding(rule, tiles)
        for source, own in zip(rule.hf, _cut(rule, tiles), strict=True):
            outputs[source.name] = (source.name, source.shape, rule_dtype, tuple(own))
    _require_apart(sources)
    for copy, original in weights.copies.items():
        outputs[copy] = (copy, *outputs[original][1:])
    files, index = lay_out(list(outputs.values()), max_file_bytes)
    plan = CopyPlan(tuple(sources), tuple(_marked(file, weights.copies) for file in files), tuple(dropped))
    return HfPlan(plan, index, frozenset(output[2] for output in outputs.values()))


def _dtype(rule: TensorRule, saved: SavedWeights, dtype: str | None) -> str:
    return saved.dtype(rule) if dtype is None or rule.keeps_dtype else dtype


def _require_apart(sources: list[StoredTensor]) -> None:
    """Two tensors in the same bytes mean a damaged directory, whatever it says of each."""
    ordered = sorted(sources, key=lambda source: (str(source.path), source.offset))
    for before, after in pairwise(ordered):
        if before.path == after.path and before.offset + before.num_bytes > after.offset:
            raise RequestError(
                f"{after.path} is damaged: {before.name} and {after.name} are said to lie in the same bytes. Copy the "
                "checkpoint again."
            )


def _marked(file: OutputFile, copies: Mapping[str, str]) -> OutputFile:
    """With the records marked that repeat others."""
    return replace(
        file, records=tuple(replace(record, same_as=copies.get(record.name, "")) for record in file.records)
    )


def _cut(rule: TensorRule, tiles: list[Tile]) -> list[list[Tile]]:
    """Tiles of the full matrix, cut up for each Hugging Face tensor of the rule."""
    parts: list[list[Tile]] = [[] for _ in rule.hf]
    block_row = 0
    for block in rule.blocks:
        for tile in tiles:
            first = max(block_row, tile.row)
            last = min(block_row + block.num_rows, tile.row + tile.num_rows)
            if first < last:
                parts[block.source].append(
                    replace(
                        tile,
                        source_row=tile.source_row + first - tile.row,
                        row=block.start_row + first - block_row,
                        num_rows=last - first,
                    )
                )
        block_row += block.num_rows
    return parts


def _padding(rule: TensorRule, tiles: list[Tile]) -> list[Tile]:
    """Rows below the vocabulary."""
    rows = rule.megatron_shape[0]
    return [
        replace(
            tile,
            source_row=tile.source_row + first - tile.row,
            row=0,
            num_rows=tile.row + tile.num_rows - first,
        )
        for tile in tiles
        if (first := max(rows, tile.row)) < tile.row + tile.num_rows
    ]
