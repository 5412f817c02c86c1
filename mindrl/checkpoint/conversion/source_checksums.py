"""Checksums that source files hold of themselves, compared while copying: no byte is read for them a second time.

Archives of `torch.save` have a CRC-32 of each payload. A conversion reads a payload in pieces and out of order; the
pieces' checksums combine to that of the whole, because a CRC is linear over GF(2): the checksum of A followed by n
bytes of B is a matrix that depends on n, times A's, plus B's (Ross N. Williams 1993, A Painless Guide to CRC).
"""

import threading
import zlib
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mindrl.checkpoint.byte_plan import Payload, Record, StoredTensor
from mindrl.checkpoint.conversion.copying import PIECE_BYTES, SourceFiles
from mindrl.errors import RequestError

_POLYNOMIAL = 0xEDB88320
Matrix = tuple[int, ...]
"""32 columns over GF(2), each the image of one bit."""


class CheckedSources(SourceFiles):
    """Source files of one output file; remembers the checksum of every piece that is read of a checked payload."""

    def __init__(self, files: SourceFiles) -> None:
        super().__init__(allow_nan=files.allow_nan)
        self._files = files
        self._pieces: dict[tuple[Path, Payload], list[tuple[int, int, int]]] = {}
        self._noting = threading.Lock()

    def read_bytes(self, source: StoredTensor, offset: int, out: npt.NDArray[np.uint8]) -> None:
        """As `SourceFiles` does."""
        self._files.read_bytes(source, offset, out)
        if source.payload is not None:
            piece = (offset, out.nbytes, zlib.crc32(out.data.cast("B")))
            with self._noting:
                self._pieces.setdefault((source.path, source.payload), []).append(piece)

    def require_intact(self, records: Iterable[Record]) -> None:
        """`RequestError` if a payload that these records are made of is not as it was written.

        What other output files are made of, or none (vocabulary padding), is read for this."""
        sources = {tile.source for record in records for tile in record.tiles}
        for (_, payload), source in {(source.path, source.payload): source for source in sources}.items():
            if payload is not None and self._checksum(payload, source) != payload.crc:
                raise RequestError(
                    f"{source.path} is damaged: {source.name} differs from the checksum that was saved with it. Copy "
                    "or convert the checkpoint again. (Files that torch wrote with set_crc32_options(False) have no "
                    "checksums: load them and save them again.)"
                )

    def _checksum(self, payload: Payload, source: StoredTensor) -> int:
        with self._noting:
            found = sorted(self._pieces.pop((source.path, payload), []))
        pieces: list[tuple[int, int, int]] = []
        end = payload.offset + payload.size
        for (left, left_size, _), (right, *_) in pairwise([(payload.offset, 0, 0), *found, (end, 0, 0)]):
            pieces += self._left_out(source, left + left_size, right)
        crc, position = 0, payload.offset
        for offset, size, piece_crc in sorted([*found, *pieces]):
            if offset != position:
                return self._whole(
                    payload, source
                )  # pieces that overlap: a source that is used more than once
            crc, position = combined(crc, piece_crc, size), offset + size
        return crc

    def _left_out(self, source: StoredTensor, start: int, end: int) -> list[tuple[int, int, int]]:
        pieces: list[tuple[int, int, int]] = []
        for offset in range(start, end, PIECE_BYTES):
            piece = np.empty(min(PIECE_BYTES, end - offset), np.uint8)
            self._files.read_bytes(source, offset, piece)
            pieces.append((offset, len(piece), zlib.crc32(piece)))
        return pieces

    def _whole(self, payload: Payload, source: StoredTensor) -> int:
        crc = 0
        for _, size, piece_crc in self._left_out(source, payload.offset, payload.offset + payload.size):
            crc = combined(crc, piece_crc, size)
        return crc


def combined(first: int, second: int, second_size: int) -> int:
    """CRC-32 of two stretches of bytes, one after the other, from each one's and the length of the second."""
    return _times(_zeros(second_size), first) ^ second


@lru_cache(maxsize=4096)
def _zeros(num_bytes: int) -> Matrix:
    """What so many bytes of zero make of a CRC."""
    result: Matrix = tuple(1 << bit for bit in range(32))
    power = _eight_bits()
    while num_bytes:
        if num_bytes & 1:
            result = _product(power, result)
        power = _product(power, power)
        num_bytes >>= 1
    return result


@lru_cache(maxsize=1)
def _eight_bits() -> Matrix:
    one: Matrix = (_POLYNOMIAL, *(1 << bit for bit in range(31)))
    for _ in range(3):
        one = _product(one, one)
    return one


def _product(left: Matrix, right: Matrix) -> Matrix:
    return tuple(_times(left, column) for column in right)


def _times(matrix: Matrix, vector: int) -> int:
    result = 0
    for column in matrix:
        if vector & 1:
            result ^= column
        vector >>= 1
    return result
