"""The zip layout of `torch.save` for one contiguous tensor, written around a payload."""

import io
import pickle
import struct
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch

from mindrl.checkpoint.byte_plan import ITEM_SIZES

_STORAGES = {"float32": "FloatStorage", "bfloat16": "BFloat16Storage", "float16": "HalfStorage"}
_ALIGNMENT = 64
"""torch.save starts payloads at such a multiple, counted from the start of the archive."""
_MAX_PAYLOAD = 2**32 - 2**16
"""Below the size where zip needs its 64-bit extension; chunks are cut smaller."""

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_CENTRAL_HEADER = struct.Struct("<4s6H3I5H2I")
_END_OF_DIRECTORY = struct.Struct("<4s4H2IH")


@dataclass(frozen=True)
class TensorArchive:
    """What `torch.save` writes before and after the bytes of a tensor (an `Envelope`)."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def head_size(self) -> int:
        return self._sizes[0]

    @property
    def tail_size(self) -> int:
        return self._sizes[1]

    def head(self, crc: int) -> bytes:
        """Records before the payload, and the payload's local header."""
        return self._before + self._local_header("archive/data/0", self._num_bytes, crc, self._padding)

    def tail(self, crc: int) -> bytes:
        """The record after the payload, the central directory, and its end."""
        version_offset = len(self._before) + self._payload_header_size + self._num_bytes
        version = b"3\n"
        tail = self._local_header("archive/version", len(version), zlib.crc32(version)) + version
        entries = [
            *self._directory_before,
            ("archive/data/0", len(self._before), self._num_bytes, crc),
            ("archive/version", version_offset, len(version), zlib.crc32(version)),
        ]
        directory = b"".join(self._central_header(*entry) for entry in entries)
        directory_offset = version_offset + len(tail)
        end = _END_OF_DIRECTORY.pack(
            b"PK\5\6", 0, 0, len(entries), len(entries), len(directory), directory_offset, 0
        )
        return tail + directory + end

    @property
    def _num_bytes(self) -> int:
        num_bytes = prod(self.shape) * ITEM_SIZES[self.dtype]
        assert num_bytes < _MAX_PAYLOAD, f"a chunk of {num_bytes} bytes needs zip64"
        return num_bytes

    @cached_property
    def _sizes(self) -> tuple[int, int]:
        return len(self._before) + self._payload_header_size, len(self.tail(0))

    @cached_property
    def _first_records(self) -> tuple[tuple[str, bytes], ...]:
        return (
            ("archive/data.pkl", _pickled_tensor(self.shape, self.dtype)),
            ("archive/byteorder", b"little"),
        )

    @cached_property
    def _before(self) -> bytes:
        return b"".join(
            self._local_header(name, len(data), zlib.crc32(data)) + data for name, data in self._first_records
        )

    @property
    def _directory_before(self) -> list[tuple[str, int, int, int]]:
        entries: list[tuple[str, int, int, int]] = []
        offset = 0
        for name, data in self._first_records:
            entries.append((name, offset, len(data), zlib.crc32(data)))
            offset += _LOCAL_HEADER.size + len(name) + len(data)
        return entries

    @property
    def _padding(self) -> bytes:
        """Extra field "FB", as torch writes it, that moves the payload to a multiple of the alignment."""
        unpadded = len(self._before) + _LOCAL_HEADER.size + len("archive/data/0") + 4
        length = -unpadded % _ALIGNMENT
        return struct.pack("<2sH", b"FB", length) + b"Z" * length

    @property
    def _payload_header_size(self) -> int:
        return _LOCAL_HEADER.size + len("archive/data/0") + len(self._padding)

    @staticmethod
    def _local_header(name: str, size: int, crc: int, extra: bytes = b"") -> bytes:
        fields = (b"PK\3\4", 20, 0, 0, 0, 0, crc, size, size, len(name), len(extra))
        return _LOCAL_HEADER.pack(*fields) + name.encode() + extra

    @staticmethod
    def _central_header(name: str, offset: int, size: int, crc: int) -> bytes:
        fields = (b"PK\1\2", 0, 20, 0, 0, 0, 0, crc, size, size, len(name), 0, 0, 0, 0, 0, offset)
        return _CENTRAL_HEADER.pack(*fields) + name.encode()


class _PickledStorage:
    def __init__(self, dtype: str, num_values: int) -> None:
        self.persistent_id = ("storage", getattr(torch, _STORAGES[dtype]), "0", "cpu", num_values)


class _PickledTensor:
    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape, self.dtype = shape, dtype

    def __reduce__(self) -> tuple[Any, ...]:
        strides = tuple(prod(self.shape[axis + 1 :]) for axis in range(len(self.shape)))
        storage = _PickledStorage(self.dtype, prod(self.shape))
        return torch._utils._rebuild_tensor_v2, (storage, 0, self.shape, strides, False, OrderedDict())


class _TensorPickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> tuple[Any, ...] | None:
        return obj.persistent_id if isinstance(obj, _PickledStorage) else None


def _pickled_tensor(shape: tuple[int, ...], dtype: str) -> bytes:
    buffer = io.BytesIO()
    _TensorPickler(buffer, protocol=2).dump(_PickledTensor(shape, dtype))
    return buffer.getvalue()
