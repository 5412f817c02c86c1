"""Rows of stored tensors, read by their numbers."""

import os
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mindrl.checkpoint.byte_plan import FP8, ITEM_SIZES, StoredTensor
from mindrl.checkpoint.formats.fp8_blocks import BLOCK
from mindrl.errors import RequestError

RowNumbers = npt.NDArray[np.int64]
Bytes2d = npt.NDArray[np.uint8]


class StoredRows:
    """Reads from any number of files, each opened once; several threads may read at a time."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def read(self, source: StoredTensor, rows: RowNumbers) -> Bytes2d:
        """The bytes of these rows, [len(rows), bytes of a row]; consecutive ones are read at once."""
        row_bytes = source.columns * ITEM_SIZES[source.dtype]
        if source.transposed:
            return self._read_transposed(source, rows)
        out = np.empty((len(rows), row_bytes), np.uint8)
        starts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        for start, end in pairwise(starts):
            self._fill(source, source.offset + int(rows[start]) * row_bytes, out[start:end])
        return out

    def values(self, source: StoredTensor, rows: RowNumbers, dtype: torch.dtype) -> torch.Tensor:
        """The values of these rows, [len(rows), columns]; FP8 ones times their scales, in float32 before `dtype`."""
        stored = torch.from_numpy(self.read(source, rows)).view(getattr(torch, source.dtype))
        if source.dtype != FP8 or source.scales is None:
            return stored.to(dtype)
        scales = source.scales
        blocks, place = np.unique(rows // BLOCK, return_inverse=True)
        of_blocks = torch.from_numpy(self.read(scales, blocks)).view(getattr(torch, scales.dtype)).float()
        of_columns = of_blocks.repeat_interleave(BLOCK, dim=1)[:, : source.columns]
        return (stored.float() * of_columns[torch.from_numpy(place)]).to(dtype)

    def _read_transposed(self, source: StoredTensor, rows: RowNumbers) -> Bytes2d:
        """From a file that holds [columns, rows]."""
        item = ITEM_SIZES[source.dtype]
        shape = (source.columns, source.rows, item)
        columns = np.memmap(source.path, np.uint8, "r", source.offset, shape)
        return np.ascontiguousarray(columns[:, rows].transpose(1, 0, 2)).reshape(len(rows), -1)

    def _fill(self, source: StoredTensor, offset: int, out: Bytes2d) -> None:
        view = out.data.cast("B")
        descriptor = self._open(source.path)
        while len(view):
            count = os.preadv(descriptor, [view], offset)
            if count == 0:
                raise RequestError(
                    f"{source.path} ends at byte {offset}, inside tensor {source.name}: it is cut off."
                )
            view, offset = view[count:], offset + count

    def _open(self, path: Path) -> int:
        with self._lock:
            if path not in self._descriptors:
                try:
                    self._descriptors[path] = os.open(path, os.O_RDONLY)
                except OSError as error:
                    raise RequestError(f"{path} can't be read: {error.strerror}.") from error
            return self._descriptors[path]
