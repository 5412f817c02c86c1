"""What to copy, decided completely before the first byte is written.

Tensors are seen as matrices (rows, columns), whatever their shape: rows are what the weight maps rearrange, columns
are what tensor parallelism cuts in some of them. A plan is checked as a whole: every source value is used exactly
once (or dropped by name), every destination value and every byte of every file is written exactly once.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Protocol

ITEM_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes per value of the types that weights are stored in."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that lies contiguously in a file."""

    name: str
    path: Path
    offset: int
    """Byte in the file where it starts."""
    shape: tuple[int, ...]
    dtype: str

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def columns(self) -> int:
        return prod(self.shape[1:])

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * ITEM_SIZES[self.dtype]


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
        return sum(record.num_bytes for file in self.files for record in file.records)

    def check(self) -> None:
        """Raise `AssertionError` unless everything is used once and written once."""
        used: dict[StoredTensor, list[Rectangle]] = defaultdict(list)
        for file in self.files:
            _check_file(file)
            for record in file.records:
                _check_cover(
                    record.name,
                    (record.rows, record.columns),
                    [(tile.row, tile.column, tile.num_rows, tile.num_columns) for tile in record.tiles],
                )
                for tile in record.tiles:
                    used[tile.source].append(_source_rectangle(tile))
        for tile in self.dropped:
            used[tile.source].append(_source_rectangle(tile))
        assert used.keys() == set(self.sources), "tensors that the plan forgets or doesn't know"
        for source, rectangles in used.items():
            _check_cover(source.name, (source.rows, source.columns), rectangles)


Rectangle = tuple[int, int, int, int]
"""(row, column, number of rows, number of columns)"""


def bands(tiles: Sequence[Tile]) -> Iterator[tuple[int, int, list[Tile]]]:
    """Group a record's tiles into (first row, number of rows, tiles side by side), from top to bottom."""
    ordered = sorted(tiles, key=lambda tile: (tile.row, tile.num_rows, tile.column))
    for (row, num_rows), group in groupby(ordered, key=lambda tile: (tile.row, tile.num_rows)):
        yield row, num_rows, list(group)


def _source_rectangle(tile: Tile) -> Rectangle:
    return tile.source_row, tile.source_column, tile.num_rows, tile.num_columns


def _check_cover(name: str, shape: tuple[int, int], rectangles: Iterable[Rectangle]) -> None:
    """Rectangles fill the matrix without gap or overlap, in bands of equal rows."""
    ordered = sorted(rectangles, key=lambda r: (r[0], r[2], r[1]))
    next_row = 0
    for (row, num_rows), band in groupby(ordered, key=lambda r: (r[0], r[2])):
        assert row == next_row, f"{name}: rows {min(row, next_row)} to {max(row, next_row)} not exactly once"
        next_row = row + num_rows
        _check_line(f"{name}, rows from {row}", shape[1], [(r[1], r[3]) for r in band])
    assert next_row == shape[0], f"{name}: rows end at {next_row} of {shape[0]}"


def _check_file(file: OutputFile) -> None:
    spans = [(offset, len(data)) for offset, data in file.literals]
    for record in file.records:
        head, tail = (record.envelope.head_size, record.envelope.tail_size) if record.envelope else (0, 0)
        spans.append((record.offset - head, head + record.num_bytes + tail))
    _check_line(file.name, file.size, sorted(spans))


def _check_line(name: str, length: int, spans: Sequence[tuple[int, int]]) -> None:
    """Sorted (start, length) spans fill 0 .. length without gap or overlap."""
    position = 0
    for start, size in spans:
        assert start == position, f"{name}: {min(start, position)} to {max(start, position)} not exactly once"
        position = start + size
    assert position == length, f"{name}: filled up to {position} of {length}"
