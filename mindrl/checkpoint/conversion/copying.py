"""Payloads of records, piece by piece: bounded memory, a byte copy where types agree, arithmetic where they differ."""

import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mindrl.checkpoint.byte_plan import ITEM_SIZES, Record, StoredTensor, Tile, bands
from mindrl.errors import RequestError

PIECE_BYTES = 8 << 20
"""Largest part of a record in memory at a time; pread and pwrite in such pieces beat mmap, which inflates the
resident set."""

Bytes2d = npt.NDArray[np.uint8]
_INFINITY = {"float32": 0x7F800000, "bfloat16": 0x7F80, "float16": 0x7C00}
"""Its bits, as an integer."""
_WRITTEN_OUT_BYTES = 64 << 20
"""Before the place of a write: what the disk has taken of it by then leaves the page cache."""


def pieces(record: Record, sources: "SourceFiles") -> Iterator[tuple[int, Bytes2d]]:
    """A record's payload from top to bottom as (first row, [rows, bytes of a row]), at most `PIECE_BYTES` each.

    `RequestError` where a value does not fit the record's type, or a source file ends early."""
    row_bytes = record.columns * ITEM_SIZES[record.dtype]
    rows_per_piece = max(1, PIECE_BYTES // max(1, row_bytes))
    for band_row, num_rows, tiles in bands(record.tiles):
        for first in range(0, num_rows, rows_per_piece):
            piece = np.empty((min(rows_per_piece, num_rows - first), row_bytes), np.uint8)
            for tile in tiles:
                _fill(piece, tile, first, record.dtype, sources)
            yield band_row + first, piece


def side_by_side(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Group neighbours that hold the same rows of one source, cut by columns: read together, each byte is read once
    and in long stretches."""
    group: list[Record] = []
    for record in records:
        if group and not _continues(group[-1], record):
            yield group
            group = []
        group.append(record)
    if group:
        yield group


def write_group(
    target: "TargetFile", group: Sequence[Record], sources: "SourceFiles"
) -> Iterator[tuple[int, list[int]]]:
    """Write what `side_by_side` found, with the bytes around it, into an open file.

    After every piece: (payload bytes written with it, CRC-32 of each record so far)."""
    bounds = _byte_bounds(group)
    crcs = [0] * len(group)
    for first, rows in pieces(_as_one(group), sources):
        for number, (record, (start, end)) in enumerate(zip(group, pairwise(bounds), strict=True)):
            part = np.ascontiguousarray(rows[:, start:end]).data.cast("B")
            crcs[number] = zlib.crc32(part, crcs[number])
            target.write(part, record.offset + first * (end - start))
        yield rows.nbytes, crcs
    for record, crc in zip(group, crcs, strict=True):
        if record.envelope is not None:
            target.write(record.envelope.head(crc), record.offset - record.envelope.head_size)
            target.write(record.envelope.tail(crc), record.offset + record.num_bytes)


def _continues(left: Record, right: Record) -> bool:
    if len(left.tiles) != 1 or len(right.tiles) != 1 or left.dtype != right.dtype:
        return False
    a, b = left.tiles[0], right.tiles[0]
    return (
        a.source is b.source
        and (a.source_row, a.num_rows) == (b.source_row, b.num_rows)
        and a.source_column + a.num_columns == b.source_column
    )


def _as_one(group: Sequence[Record]) -> Record:
    if len(group) == 1:
        return group[0]
    columns = sum(record.columns for record in group)
    tile = replace(group[0].tiles[0], num_columns=columns)
    return replace(group[0], columns=columns, tiles=(tile,))


def _byte_bounds(group: Sequence[Record]) -> list[int]:
    bounds = [0]
    for record in group:
        bounds.append(bounds[-1] + record.columns * ITEM_SIZES[record.dtype])
    return bounds


def _fill(piece: Bytes2d, tile: Tile, first: int, dtype: str, sources: "SourceFiles") -> None:
    """Put rows `first` ... of the tile into their columns of the piece."""
    item = ITEM_SIZES[dtype]
    place = piece[:, tile.column * item : (tile.column + tile.num_columns) * item]
    if tile.source.dtype == dtype:
        sources.read_rows(tile, first, place)
        if not sources.allow_nan:
            _refuse_nan(place, tile.source)
        return
    raw = np.empty((len(piece), tile.num_columns * ITEM_SIZES[tile.source.dtype]), np.uint8)
    sources.read_rows(tile, first, raw)
    first_row, first_column = tile.source_row + first, tile.source_column
    if tile.source.scales is None:
        place[:] = _converted(raw, tile.source, first_row, first_column, dtype)
        return
    from mindrl.checkpoint.conversion.fp8 import (
        blocks_of,
        dequantized,
    )  # takes torch; a plain copy does without

    blocks = _rows_of(tile.source.scales, *blocks_of(first_row, len(raw)), sources)
    dequantized(raw, blocks, tile.source, first_row, first_column, dtype, place)


def _rows_of(tensor: StoredTensor, first: int, num_rows: int, sources: "SourceFiles") -> Bytes2d:
    rows = np.empty((num_rows, tensor.columns * ITEM_SIZES[tensor.dtype]), np.uint8)
    sources.read_rows(Tile(tensor, first, 0, 0, 0, num_rows, tensor.columns), 0, rows)
    return rows


def _converted(raw: Bytes2d, source: StoredTensor, first_row: int, first_column: int, dtype: str) -> Bytes2d:
    """The rectangle of the source that starts at (first_row, first_column), in another type."""
    import torch  # a plain copy does without

    values = torch.from_numpy(raw).view(getattr(torch, source.dtype))
    result = values.to(getattr(torch, dtype))
    # One look at the result serves both: what is neither NaN nor infinite there was neither before.
    if not result.isfinite().all():
        _refuse_not_finite(values, result, source, dtype)
    return result.view(torch.uint8).numpy()


def _refuse_nan(rows: Bytes2d, source: StoredTensor) -> None:
    """A byte copy looks at its bytes too. NaN are the numbers beyond infinity of either sign: as integers, with the
    sign bit or without, they are larger, and two maxima tell without a second array."""
    item, infinity = ITEM_SIZES[source.dtype], _INFINITY[source.dtype]
    negative = infinity | 1 << 8 * item - 1
    if rows.size and (rows.view(f"i{item}").max() > infinity or rows.view(f"u{item}").max() > negative):
        raise RequestError(
            f"{source.name} in {source.path} holds nan, which no weight of a working model is: get the file again, or "
            "go back to an earlier checkpoint. (--allow-nan copies it as it is.)"
        )


def _refuse_not_finite(values: Any, result: Any, source: StoredTensor, dtype: str) -> None:
    """Say which value has no place in a model: a sum of one such weight is lost, and so is every token after it."""
    wrong = values[~result.isfinite()]
    value = wrong[wrong.isfinite()][:1].tolist()
    if value:
        raise RequestError(
            f"{source.name} in {source.path} holds {value[0]:g}, which is out of range for {dtype}: "
            "choose --params-dtype bf16 or fp32."
        )
    raise RequestError(
        f"{source.name} in {source.path} holds {wrong[0].item()}, which no weight of a working model is: get the file "
        "again, or go back to an earlier checkpoint."
    )


class SourceFiles:
    """Source files, opened once each; several threads may read."""

    def __init__(self, *, allow_nan: bool = True) -> None:
        """`allow_nan`: copies of bytes do not look for NaN."""
        self.allow_nan = allow_nan
        self._descriptors: dict[Path, int] = {}
        self._turn = threading.Lock()
        self.bytes_read = 0
        """So far."""

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def read_rows(self, tile: Tile, first: int, out: Bytes2d) -> None:
        """Read len(out) rows of the tile, from its row `first` on, into `out` [rows, bytes of the tile's width]."""
        source = tile.source
        if source.transposed:
            self._read_transposed(tile, first, out)
            return
        item = ITEM_SIZES[source.dtype]
        row_bytes = source.columns * item
        start = source.offset + (tile.source_row + first) * row_bytes + tile.source_column * item
        if tile.num_columns != source.columns:
            for row in range(len(out)):
                self.read_bytes(source, start + row * row_bytes, out[row])
        elif out.flags.c_contiguous:
            self.read_bytes(source, start, out)
        else:
            rows = np.empty(out.shape, np.uint8)
            self.read_bytes(source, start, rows)
            out[:] = rows

    def _read_transposed(self, tile: Tile, first: int, out: Bytes2d) -> None:
        """The same where the file holds columns, one after another."""
        source, item = tile.source, ITEM_SIZES[tile.source.dtype]
        columns = np.empty((tile.num_columns, len(out) * item), np.uint8)
        row = tile.source_row + first
        for column in range(tile.num_columns):
            start = (tile.source_column + column) * source.rows + row
            self.read_bytes(source, source.offset + start * item, columns[column])
        values = f"u{item}"
        out.view(values)[:] = columns.view(values).T

    def read_bytes(self, source: StoredTensor, offset: int, out: npt.NDArray[np.uint8]) -> None:
        """Fill `out` with the bytes of the source's file from `offset` on."""
        descriptor = self._descriptor(source.path)
        view = out.data.cast("B")
        while len(view):
            try:
                count = os.preadv(descriptor, [view], offset)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(source.path)) from error
            with self._turn:
                self.bytes_read += count
            if count == 0:
                raise RequestError(
                    f"{source.path} ends at byte {offset}, inside tensor {source.name}: it is cut off."
                )
            view, offset = view[count:], offset + count

    def _descriptor(self, path: Path) -> int:
        descriptor = self._descriptors.get(path)
        if descriptor is None:
            with self._turn:
                descriptor = self._descriptors.get(path)
                if descriptor is None:
                    descriptor = self._descriptors[path] = os.open(path, os.O_RDONLY)
        return descriptor


class TargetFile:
    """An output file that several threads write into, one at a time: the kernel lets no two of them, and has the
    others wait busily."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._turn = threading.Lock()

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """All of `data` at byte `offset`. The disk begins to take it at once, not at an `fsync` in the end."""
        view, start = memoryview(data), offset
        while len(view):
            with self._turn:
                count = os.pwrite(self.descriptor, view, offset)
            view, offset = view[count:], offset + count
        before = min(start, _WRITTEN_OUT_BYTES)
        os.posix_fadvise(self.descriptor, start - before, offset - start + before, os.POSIX_FADV_DONTNEED)
