"""Weights of a Hugging Face directory or a Megatron checkpoint, as Hugging Face tensors whose rows can be read."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from mindrl.checkpoint import directories
from mindrl.checkpoint.byte_plan import ITEM_SIZES, StoredTensor, Tile
from mindrl.checkpoint.comparison.stored_rows import RowNumbers, StoredRows
from mindrl.checkpoint.formats.fp8_blocks import without_fp8
from mindrl.checkpoint.formats.safetensors_files import INDEX_NAME, SINGLE_NAME, read_model
from mindrl.checkpoint.saved_weights import SavedWeights, open_checkpoint
from mindrl.errors import RequestError
from mindrl.weight_maps import MTP_PREFIX, Architecture, TensorRule, architecture_of, weight_map
from mindrl.weight_maps.architecture import read_config

EMBEDDING = "model.embed_tokens.weight"
OUTPUT_LAYER = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Described:
    """A tensor of one side."""

    shape: tuple[int, ...]
    dtype: str
    """As it is stored."""

    @property
    def columns(self) -> int:
        """Values of one row."""
        return prod(self.shape[1:])

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 1


class Side(Protocol):
    """One of the two that are compared."""

    path: Path
    kind: str
    """In words."""
    architecture: Architecture | None
    """By its config.json; None where it has none that there is a map for."""
    has_mtp: bool
    """Whether it is to hold layers for multi-token prediction, where it is known."""
    tensors: Mapping[str, Described]
    """By Hugging Face name."""

    def values(self, name: str, first: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Rows `first` ... of a tensor as `dtype`, [count, columns]."""
        ...

    def place(self, name: str, row: int, column: int) -> tuple[Path, int]:
        """File and byte of one value."""
        ...

    def close(self) -> None:
        """Close its files."""
        ...


def open_side(path: Path, other: Path, hf_dir: Path | None, *, keep_mtp: bool | None) -> Side:
    """Hugging Face directory or Megatron checkpoint (directory, or one iteration's); reads headers only.

    A checkpoint's config.json is in `hf_dir`, or else in `hf/` beside it, or else in `other`, the side to compare with.
    `keep_mtp`: whether layers for multi-token prediction are looked for in a checkpoint (None: where it has some)."""
    if not path.is_dir():
        raise RequestError(
            f"--check {path} is not a directory: name a Hugging Face directory or a checkpoint directory."
        )
    if is_hf_directory(path):
        return HuggingFaceSide(path)
    checkpoint = directories.latest_weights(path)
    places = (hf_dir,) if hf_dir is not None else (directories.hf_directory(checkpoint), other)
    for place in places:
        if (place / "config.json").exists():
            architecture = architecture_of(
                without_fp8(read_config(place), place / "config.json"), weights_only=True
            )
            return MegatronSide(checkpoint, architecture, keep_mtp=keep_mtp)
    raise RequestError(
        f"--check {path}: config.json of its model is not in {' nor in '.join(map(str, places))}: say where it is with "
        "--hf-dir."
    )


def is_hf_directory(path: Path) -> bool:
    """Whether weights of a Hugging Face model lie there."""
    return (path / INDEX_NAME).exists() or (path / SINGLE_NAME).exists()


class HuggingFaceSide:
    """Safetensors files: every tensor lies in one piece."""

    kind = "Hugging Face directory"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stored = read_model(path)
        self._rows = StoredRows()
        self.architecture = _architecture_or_none(path)
        self.has_mtp = self.architecture is None or self.architecture.num_mtp_layers > 0
        self.tensors = {name: Described(tensor.shape, tensor.dtype) for name, tensor in self._stored.items()}

    def values(self, name: str, first: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        """See `Side`."""
        return self._rows.values(self._stored[name], np.arange(first, first + count), dtype)

    def place(self, name: str, row: int, column: int) -> tuple[Path, int]:
        """See `Side`."""
        return _place(self._stored[name], row, column)

    def close(self) -> None:
        """See `Side`."""
        self._rows.close()


class MegatronSide:
    """A checkpoint: every row is looked up in the parts that its Megatron tensor is stored in."""

    kind = "Megatron checkpoint"

    def __init__(self, path: Path, architecture: Architecture, *, keep_mtp: bool | None) -> None:
        self.path = path
        self.architecture = architecture
        self._saved: SavedWeights = open_checkpoint(path)
        # A checkpoint of training has none, whatever the config.json of the model it began with says.
        present = any(name.startswith(MTP_PREFIX) for name in self._saved.names())
        self.has_mtp = present if keep_mtp is None else keep_mtp
        self._weights = weight_map(architecture, self.has_mtp)
        self._saved.require_model(self._weights)
        self._rows = StoredRows()
        self._lock = threading.Lock()
        self.tensors = {
            source.name: Described(source.shape, self._saved.dtype(rule))
            for rule in self._weights.rules
            for source in rule.hf
        }
        # Query, key and value, and gate and up, are parts of one Megatron tensor, and are asked for in turn.
        self._located = lru_cache(maxsize=16)(self._locate)

    def values(self, name: str, first: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        """See `Side`."""
        described, located = self.tensors[name], self._find(name)
        rows, item = located.rows[first : first + count], ITEM_SIZES[described.dtype]
        found = np.empty((count, described.columns * item), np.uint8)
        for tile in located.tiles:
            inside = np.flatnonzero((rows >= tile.row) & (rows < tile.row + tile.num_rows))
            if len(inside):
                data = self._rows.read(tile.source, rows[inside] - tile.row + tile.source_row)
                start, stop = tile.column * item, (tile.column + tile.num_columns) * item
                skipped = tile.source_column * item
                found[inside, start:stop] = data[:, skipped : skipped + stop - start]
        return torch.from_numpy(found).view(getattr(torch, described.dtype)).to(dtype)

    def place(self, name: str, row: int, column: int) -> tuple[Path, int]:
        """See `Side`."""
        located = self._find(name)
        wanted = int(located.rows[row])
        tile = next(tile for tile in located.tiles if _holds(tile, wanted, column))
        return _place(
            tile.source, wanted - tile.row + tile.source_row, column - tile.column + tile.source_column
        )

    def close(self) -> None:
        """See `Side`."""
        self._rows.close()
        self._saved.close()

    def _find(self, name: str) -> "_Located":
        with self._lock:
            return self._located(name)

    def _locate(self, name: str) -> "_Located":
        rule = self._weights.by_hf_name[name]
        return _Located(tuple(self._saved.tiles(rule)), _megatron_rows(rule, name))


@dataclass(frozen=True, slots=True)
class _Located:
    """Where a Hugging Face tensor is in a checkpoint."""

    tiles: tuple[Tile, ...]
    """Of its whole Megatron tensor."""
    rows: RowNumbers
    """For every row of the Hugging Face tensor, which row of the Megatron tensor it is."""


def _megatron_rows(rule: TensorRule, name: str) -> RowNumbers:
    source = next(number for number, tensor in enumerate(rule.hf) if tensor.name == name)
    rows = np.full(rule.hf[source].shape[0], -1, np.int64)
    position = 0
    for block in rule.blocks:
        if block.source == source:
            rows[block.start_row : block.start_row + block.num_rows] = np.arange(
                position, position + block.num_rows
            )
        position += block.num_rows
    if rows.min() < 0:
        raise RuntimeError(f"the weight map leaves out rows of {name}")
    return rows


def _holds(tile: Tile, row: int, column: int) -> bool:
    return 0 <= row - tile.row < tile.num_rows and 0 <= column - tile.column < tile.num_columns


def _place(source: StoredTensor, row: int, column: int) -> tuple[Path, int]:
    number = column * source.rows + row if source.transposed else row * source.columns + column
    return source.path, source.offset + number * ITEM_SIZES[source.dtype]


def _architecture_or_none(path: Path) -> Architecture | None:
    """Two Hugging Face directories can be compared without knowing their family."""
    if not (path / "config.json").exists():
        return None
    try:
        return architecture_of(without_fp8(read_config(path), path / "config.json"), weights_only=True)
    except RequestError:
        return None
