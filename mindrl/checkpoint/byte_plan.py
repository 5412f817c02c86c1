"""What to copy, decided completely before the first byte is written.

Tensors are seen as matrices (rows, columns), whatever their shape: rows are what the weight maps rearrange, columns
are what tensor parallelism cuts in some of them. `mindrl.checkpoint.plan_proof` proves a plan as a whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Protocol

FP8 = "float8_e4m3fn"
"""Eight-bit floats, with `StoredTensor.scales`: read only, as bfloat16 where nothing else is asked for."""
ITEM_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2, FP8: 1}
"""Bytes per value of the types that weights are stored in."""


@dataclass(frozen=True, slots=True)
class Payload:
    """Bytes of a file that have a checksum there."""

    offset: int
    size: int
    crc: int
    """CRC-32"""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that lies contiguously in a file."""

    name: str
    path: Path
    offset: int
    """Byte in the file where it starts."""
    shape: tuple[int, ...]
    dtype: str
    scales: "StoredTensor | None" = None
    """What blocks of the values are to be multiplied by (FP8)."""
    transposed: bool = False
    """The file holds the rows of the transpose, one after another: [columns, rows]."""
    payload: Payload | None = None
    """What it is part of, or all of, and what a conversion compares with its checksum."""

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def columns(self) -> int:
        return prod(self.shape[1:])

    @property
    def num_bytes(self) -> int:
        """Without those of the scales."""
        return prod(self.shape) * ITEM_SIZES[self.dtype]

    @property
    def value_dtype(self) -> str:
        """Type of its values where nothing else is asked for: its own, or bfloat16 for FP8."""
        return "bfloat16" if self.dtype == FP8 else self.dtype


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of a stored tensor, and where in the record it goes."""

    source: StoredTensor
    source_row: int
    source_column: int
    row: int
    column: int
    num_rows: int
    num_columns: int


class Envelope(Protocol):
    """Bytes around a record's payload; they depend on the payload's CRC-32, not their lengths."""

    @property
    def head_size(self) -> int: ...

    @property
    def tail_size(self) -> int: ...

    def head(self, crc: int) -> bytes: ...

    def tail(self, crc: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Record:
    """A matrix to be written contiguously into an output file."""

    name: str
    offset: int
    """Byte in the output file where the payload starts."""
    rows: int
    columns: int
    dtype: str
    tiles: tuple[Tile, ...]
    envelope: Envelope | None = None
    same_as: str = ""
    """Name of the record that this one repeats under another key; then its sources count once."""

    @property
    def num_bytes(self) -> int:
        """Length of the payload."""
        return self.rows * self.columns * ITEM_SIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file: literal bytes and records, which together fill it."""

    name: str
    size: int
    records: tuple[Record, ...]
    literals: tuple[tuple[int, bytes], ...] = ()
    """(offset, bytes)"""

    @property
    def num_bytes(self) -> int:
        """Payload bytes of its records."""
        return sum(record.num_bytes for record in self.records)


@dataclass(frozen=True)
class CopyPlan:
    """Everything a conversion writes tensor data into."""

    sources: tuple[StoredTensor, ...]
    files: tuple[OutputFile, ...]
    dropped: tuple[Tile, ...] = field(default=())
    """Parts of sources that are left out on purpose (vocabulary padding)."""

    @property
    def num_bytes(self) -> int:
        """Payload bytes to be written."""
        return sum(file.num_bytes for file in self.files)


def bands(tiles: Sequence[Tile]) -> Iterator[tuple[int, int, list[Tile]]]:
    """Group a record's tiles into (first row, number of rows, tiles side by side), from top to bottom."""
    ordered = sorted(tiles, key=lambda tile: (tile.row, tile.num_rows, tile.column))
    for (row, num_rows), group in groupby(ordered, key=lambda tile: (tile.row, tile.num_rows)):
        yield row, num_rows, list(group)
