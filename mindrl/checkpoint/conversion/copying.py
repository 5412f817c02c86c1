"""Carry out a `CopyPlan`: bounded memory, a byte copy where types agree, arithmetic where they differ."""

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mindrl.checkpoint.byte_plan import ITEM_SIZES, CopyPlan, Record, StoredTensor, Tile, bands
from mindrl.errors import RequestError

PIECE_BYTES = 8 << 20
"""Largest part of a record in memory at a time; pread and pwrite in such pieces beat mmap, which inflates the
resident set."""

Bytes2d = npt.NDArray[np.uint8]


def carry_out(plan: CopyPlan, directory: Path, advance: Callable[[int], None]) -> None:
    """Write every file of the plan into `directory`; `advance` hears of payload bytes written.

    Raises `RequestError` where a value does not fit the type asked for, or a source file ends early."""
    sources = _SourceFiles()
    try:
        for file in plan.files:
            target = os.open(directory / file.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                for offset, data in file.literals:
                    _write(target, data, offset)
                for record in file.records:
                    _write_record(target, record, sources, advance)
                os.fsync(target)
            finally:
                os.close(target)
    finally:
        sources.close()


def _write_record(
    target: int, record: Record, sources: "_SourceFiles", advance: Callable[[int], None]
) -> None:
    row_bytes = record.columns * ITEM_SIZES[record.dtype]
    rows_per_piece = max(1, PIECE_BYTES // row_bytes)
    crc = 0
    for band_row, num_rows, tiles in bands(record.tiles):
        for first in range(0, num_rows, rows_per_piece):
            piece = np.empty((min(rows_per_piece, num_rows - first), row_bytes), np.uint8)
            for tile in tiles:
                _fill(piece, tile, first, record.dtype, sources)
            if record.envelope is not None:
                crc = zlib.crc32(piece, crc)
            _write(target, piece.data.cast("B"), record.offset + (band_row + first) * row_bytes)
            advance(piece.nbytes)
    if record.envelope is not None:
        _write(target, record.envelope.head(crc), record.offset - record.envelope.head_size)
        _write(target, record.envelope.tail(crc), record.offset + record.num_bytes)


def _fill(piece: Bytes2d, tile: Tile, first: int, dtype: str, sources: "_SourceFiles") -> None:
    """Put rows `first` ... of the tile into their columns of the piece."""
    item = ITEM_SIZES[dtype]
    place = piece[:, tile.column * item : (tile.column + tile.num_columns) * item]
    if tile.source.dtype == dtype:
        sources.read_rows(tile, first, place)
        return
    raw = np.empty((len(piece), tile.num_columns * ITEM_SIZES[tile.source.dtype]), np.uint8)
    sources.read_rows(tile, first, raw)
    place[:] = _converted(raw, tile.source, dtype)


def _converted(raw: Bytes2d, source: StoredTensor, dtype: str) -> Bytes2d:
    values = torch.from_numpy(raw).view(getattr(torch, source.dtype))
    result = values.to(getattr(torch, dtype))
    overflows = result.isinf() & values.isfinite()
    if overflows.any():
        value = values[overflows][0].item()
        raise RequestError(
            f"{source.name} in {source.path} holds {value:g}, which is out of range for {dtype}: "
            "choose --params-dtype bf16 or fp32."
        )
    return result.view(torch.uint8).numpy()


class _SourceFiles:
    """Source files, opened once each."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def read_rows(self, tile: Tile, first: int, out: Bytes2d) -> None:
        """Read len(out) rows of the tile, from its row `first` on, into `out` [rows, bytes of the tile's width]."""
        source = tile.source
        item = ITEM_SIZES[source.dtype]
        row_bytes = source.columns * item
        start = source.offset + (tile.source_row + first) * row_bytes + tile.source_column * item
        if tile.num_columns != source.columns:
            for row in range(len(out)):
                self._read(source, start + row * row_bytes, out[row])
        elif out.flags.c_contiguous:
            self._read(source, start, out)
        else:
            rows = np.empty(out.shape, np.uint8)
            self._read(source, start, rows)
            out[:] = rows

    def _read(self, source: StoredTensor, offset: int, out: npt.NDArray[np.uint8]) -> None:
        descriptor = self._descriptors.get(source.path)
        if descriptor is None:
            descriptor = self._descriptors[source.path] = os.open(source.path, os.O_RDONLY)
        view = out.data.cast("B")
        while len(view):
            count = os.preadv(descriptor, [view], offset)
            if count == 0:
                raise RequestError(
                    f"{source.path} ends at byte {offset}, inside tensor {source.name}: it is cut off."
                )
            view, offset = view[count:], offset + count


def _write(target: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while len(view):
        count = os.pwrite(target, view, offset)
        view, offset = view[count:], offset + count
