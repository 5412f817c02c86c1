"""Reads the zip archives of `torch.save`: where the values of a tensor lie in a file, without loading them.

A checkpoint of many experts has tens of thousands of archives of one tensor each, so a small one is taken in with two
reads. `zipfile` reads those with 64-bit sizes.
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from mindrl.checkpoint.byte_plan import ITEM_SIZES, Payload, StoredTensor
from mindrl.checkpoint.formats.file_part import FilePart
from mindrl.checkpoint.formats.inert_pickle import DAMAGE, PLAIN, TENSORS, PickledTensor, unpickled
from mindrl.checkpoint.formats.torch_dist import SavedObject
from mindrl.errors import RequestError

WEIGHT_DTYPES = ("float32", "bfloat16", "float16")
"""Types that weights have in Megatron's checkpoints."""
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_CENTRAL_HEADER = struct.Struct("<4s6H3I5H2I")
_END_OF_DIRECTORY = struct.Struct("<4s4H2IH")
_FIRST_READ = 2048
"""Has the description of a tensor, and everything else before its values."""
_LAST_READ = 1024
"""Has the directory of an archive of one tensor."""
_MAX_TENSOR_PICKLE = 1 << 16
_ZIP_DAMAGE = (
    zipfile.BadZipFile, NotImplementedError, RuntimeError, struct.error, zlib.error, *DAMAGE,
)  # fmt: skip
"""What `zipfile` raises of a damaged archive: a flipped bit may ask for a password (RuntimeError) or another packing."""


class DamagedArchive(Exception):
    """What is wrong with an archive, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in an archive."""

    name: bytes
    """With the folder."""
    header: int
    """Byte in the archive where its header starts; its bytes follow."""
    size: int
    crc: int
    is_plain: bool
    """Neither compressed nor encrypted."""


class Archive:
    """An archive that lies in a file, `length` bytes from `offset` on; without them the file is one.

    Methods raise `DamagedArchive`, or `OSError` where the file can't be read."""

    def __init__(self, file: BinaryIO, offset: int = 0, length: int | None = None) -> None:
        self._file, self._offset = file, offset
        size = os.fstat(file.fileno()).st_size
        self._length = size if length is None else length
        if offset < 0 or self._length < _END_OF_DIRECTORY.size or offset + self._length > size:
            raise DamagedArchive(f"the file has {size} bytes, not {offset + self._length}: it is cut off")
        self._head = self._read(0, min(self._length, _FIRST_READ))

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """By name, without the folder that all are in."""
        found = self._entries_of_small_directory()
        return self._entries_by_zipfile() if found is None else found

    def read(self, name: str, most: int) -> bytes:
        """An entry's bytes, checked, no more than `most`."""
        entry = self._entry(name)
        if entry.size > most:
            raise DamagedArchive(f"{name} in it has {entry.size} bytes")
        data = self._bytes(self._payload(name, entry), entry.size)
        if zlib.crc32(data) != entry.crc:
            raise DamagedArchive(f"{name} in it differs from its checksum")
        return data

    def stored(self, tensor: Any, name: str, path: Path) -> StoredTensor:
        """Where the values of a pickled tensor of this archive lie: contiguously, or as those of its transpose."""
        if not _is_well_formed(tensor):
            raise DamagedArchive("its description of the tensor makes no sense")
        if tensor.dtype not in WEIGHT_DTYPES:
            raise DamagedArchive(f"its type is {tensor.dtype}, weights are {', '.join(WEIGHT_DTYPES)}")
        transposed = not _are_contiguous(tensor.shape, tensor.strides)
        if transposed and not (
            len(tensor.shape) == 2 and _are_contiguous(tensor.shape[::-1], tensor.strides[::-1])
        ):
            raise DamagedArchive(f"its values are not contiguous (strides {tensor.strides})")
        key = f"data/{tensor.storage}"
        entry, item = self._entry(key), ITEM_SIZES[tensor.dtype]
        if (tensor.first + prod(tensor.shape)) * item > entry.size:
            raise DamagedArchive(f"{tensor.shape} {tensor.dtype} is more than its {entry.size} bytes")
        first = self._offset + self._payload(key, entry)
        return StoredTensor(
            name,
            path,
            first + tensor.first * item,
            tensor.shape,
            tensor.dtype,
            transposed=transposed,
            payload=Payload(first, entry.size, entry.crc),
        )

    def require_byte_order(self) -> None:
        """Little-endian, as all that Megatron runs on."""
        if "byteorder" in self.entries and self.read("byteorder", 16) != b"little":
            raise DamagedArchive("its values are not little-endian")

    def _entry(self, name: str) -> Entry:
        if name not in self.entries:
            raise DamagedArchive(f"it has no {name}")
        entry = self.entries[name]
        if not entry.is_plain:
            raise DamagedArchive(f"{name} in it is compressed")
        return entry

    def _payload(self, name: str, entry: Entry) -> int:
        """Byte of the archive where an entry's bytes start.

        Nothing but its header says how far from there, and no checksum is over that: so all of it has to fit."""
        header = self._bytes(entry.header, _LOCAL_HEADER.size)
        magic, *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        after = entry.header + _LOCAL_HEADER.size
        start = after + name_length + extra_length
        if magic == b"PK\3\4" and start + entry.size <= self._length:
            rest = self._bytes(after, name_length + extra_length)
            if rest[:name_length] == entry.name and _fills(rest[name_length:]):
                return start
        raise DamagedArchive(f"{name} is not where its directory says")

    def _bytes(self, start: int, length: int) -> bytes:
        if start < 0 or start + length > self._length:
            raise DamagedArchive("its directory points outside of it")
        if start + length <= len(self._head):
            return self._head[start : start + length]
        return self._read(start, length)

    def _read(self, start: int, length: int) -> bytes:
        data = os.pread(self._file.fileno(), length, self._offset + start)
        if len(data) != length:
            raise DamagedArchive("it is cut off")
        return data

    def _entries_of_small_directory(self) -> dict[str, Entry] | None:
        """None where 64-bit fields or comments are used, or the directory is large."""
        size = min(self._length, _LAST_READ)
        tail = self._bytes(self._length - size, size)
        magic, _, _, _, count, directory_size, start, comment = _END_OF_DIRECTORY.unpack(
            tail[-_END_OF_DIRECTORY.size :]
        )
        first = size - (self._length - start)
        if magic != b"PK\5\6" or comment or first < 0 or count == 0xFFFF:
            return None
        directory = tail[first : first + directory_size]
        entries: dict[str, Entry] = {}
        position = 0
        for _ in range(count):
            if position + _CENTRAL_HEADER.size > len(directory):
                raise DamagedArchive("its directory is cut off")
            fields = _CENTRAL_HEADER.unpack_from(directory, position)
            flags, method, crc, packed, unpacked = fields[3], fields[4], *fields[7:10]
            name_length, extra_length, comment_length, header = *fields[10:13], fields[16]
            if 0xFFFFFFFF in (packed, unpacked, header):
                return None
            position += _CENTRAL_HEADER.size
            name = directory[position : position + name_length]
            position += name_length + extra_length + comment_length
            entries[_without_folder(name)] = Entry(
                name, header, unpacked, crc, fields[0] == b"PK\1\2" and not flags & 1 and not method
            )
        return entries

    def _entries_by_zipfile(self) -> dict[str, Entry]:
        try:
            with zipfile.ZipFile(FilePart(self._file, self._offset, self._length)) as archive:
                return {
                    _without_folder(info.orig_filename.encode()): Entry(
                        info.orig_filename.encode(),
                        info.header_offset,
                        info.file_size,
                        info.CRC,
                        info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1,
                    )
                    for info in archive.infolist()
                }
        except _ZIP_DAMAGE as error:
            raise DamagedArchive(f"it can't be read as a zip archive: {error}") from None


def locate_tensor(file: BinaryIO, offset: int, length: int, name: str = "") -> StoredTensor:
    """Find the tensor in the archive at `offset` of an open file.

    Raises `RequestError` for an archive that holds anything but one contiguous, uncompressed tensor."""
    try:
        archive = Archive(file, offset, length)
        archive.require_byte_order()
        tensor = _unpickled_tensor(archive.read("data.pkl", _MAX_TENSOR_PICKLE))
        stored = archive.stored(tensor, name, _path(file.name))
        if stored.transposed:
            raise DamagedArchive(f"its values are not contiguous (strides {tensor.strides})")
    except DamagedArchive as error:
        what = f", {name}," if name else ""
        raise RequestError(
            f"{file.name} holds no readable tensor{what} at byte {offset}: {error}. Copy or convert the checkpoint again."
        ) from None
    return stored


_path = lru_cache(Path)


@lru_cache(maxsize=1024)
def _unpickled_tensor(data: bytes) -> PickledTensor:
    """Archives of a stack describe their tensors in the same bytes."""
    try:
        return unpickled(data, PLAIN | TENSORS, others=None)
    except DAMAGE as error:
        raise DamagedArchive(f"its description can't be read: {error}") from None


def find_damage(checkpoint: Path, archives: Iterable[SavedObject]) -> Iterator[str]:
    """A sentence for every archive that is not as it was written, by the checksums inside."""
    for archive in archives:
        path = checkpoint / archive.file
        try:
            with path.open("rb") as file:
                damaged = zipfile.ZipFile(FilePart(file, archive.offset, archive.length)).testzip()
        except (OSError, *_ZIP_DAMAGE) as error:
            yield f"{path}, which holds {archive.key} of the checkpoint, can't be read: {error}."
        else:
            if damaged is not None:
                yield f"{path} is damaged: {archive.key}, at byte {archive.offset}, differs from its checksum."


def _without_folder(name: bytes) -> str:
    return name.partition(b"/")[2].decode(errors="replace")


def _fills(extra: bytes) -> bool:
    """Whether extra fields (two bytes of kind, two of length, and content) fill the space for them."""
    position = 0
    while position + 4 <= len(extra):
        position += 4 + int.from_bytes(extra[position + 2 : position + 4], "little")
    return position == len(extra)


def _is_well_formed(tensor: Any) -> bool:
    if not isinstance(tensor, PickledTensor) or not isinstance(tensor.dtype, str):
        return False
    numbers = (tensor.first, *tensor.shape, *tensor.strides)
    return len(tensor.shape) == len(tensor.strides) and all(
        type(number) is int and number >= 0 for number in numbers
    )


def _are_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
