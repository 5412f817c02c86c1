"""Part of a file as a file."""

import io
from typing import Any, BinaryIO


class FilePart(io.RawIOBase):
    """`length` bytes of `file`, from `offset` on."""

    def __init__(self, file: BinaryIO, offset: int, length: int) -> None:
        self._file, self._offset, self._length, self._position = file, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._offset + self._position)
        left = max(0, self._length - self._position)
        num_bytes = self._file.readinto(memoryview(buffer)[:left])
        self._position += num_bytes
        return num_bytes
