"""Directory of a `torch_dist` checkpoint: which chunk of which tensor lies where, read and written by hand.

Reading maps every pickled class onto one of the few below, or onto one that does nothing, so that no code from a
checkpoint runs and the torch that wrote it does not matter. Writing emits torch's own classes with the oldest set of
fields: later ones have defaults on the class, so that older and newer torch load it.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint import metadata as dcp

from mindrl.checkpoint.byte_plan import ITEM_SIZES
from mindrl.errors import RequestError

METADATA_NAME = ".metadata"
_DAMAGE = (
    pickle.UnpicklingError, EOFError, AttributeError, KeyError, TypeError, IndexError, ValueError, OverflowError,
    MemoryError,
)  # fmt: skip
"""What a damaged pickle can raise."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A rectangular part of a global tensor, saved as one archive."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    offset: int
    """Byte in the file where the archive starts."""
    length: int


@dataclass(frozen=True, slots=True)
class GlobalTensor:
    """A tensor of the checkpoint, all ranks' parts together."""

    key: str
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class SavedObject:
    """A pickled object of the checkpoint."""

    key: str
    file: str
    offset: int
    length: int


def metadata_bytes(tensors: Sequence[GlobalTensor], objects: Sequence[SavedObject]) -> bytes:
    """Content of `.metadata`."""
    entries: dict[str, Any] = {saved.key: dcp.BytesStorageMetadata() for saved in objects}
    storage = {
        dcp.MetadataIndex(saved.key): _storage_info(saved.file, saved.offset, saved.length)
        for saved in objects
    }
    for tensor in tensors:
        entries[tensor.key] = dcp.TensorStorageMetadata(
            dcp.TensorProperties(dtype=getattr(torch, tensor.dtype)),
            torch.Size(tensor.shape),
            [
                dcp.ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.sizes))
                for chunk in tensor.chunks
            ],
        )
        for chunk in tensor.chunks:
            index = dcp.MetadataIndex(tensor.key, chunk.offsets)
            storage[index] = _storage_info(chunk.file, chunk.offset, chunk.length)
    metadata = _with_fields(
        dcp.Metadata, state_dict_metadata=entries, planner_data=None, storage_data=storage
    )
    return pickle.dumps(metadata, protocol=4)


def _storage_info(file: str, offset: int, length: int) -> Any:
    return _with_fields(filesystem._StorageInfo, relative_path=file, offset=offset, length=length)


def _with_fields(cls: type, **fields: Any) -> Any:
    """An instance with exactly these fields, later ones left to their defaults on the class."""
    instance = cls.__new__(cls)
    instance.__dict__.update(fields)
    return instance


def read_directory(checkpoint: Path) -> dict[str, GlobalTensor]:
    """Tensors of types that weights are stored in, by key; everything else in the checkpoint is left out."""
    with _metadata_of(checkpoint) as metadata:
        entries: Mapping[str, Any] = metadata.state_dict_metadata
        places = {(index.fqn, index.offset): info for index, info in metadata.storage_data.items()}
        return {
            key: _global_tensor(key, entry, places)
            for key, entry in entries.items()
            if isinstance(entry, _TensorStorageMetadata) and entry.properties.dtype in ITEM_SIZES
        }


def read_keys(checkpoint: Path) -> frozenset[str]:
    """Keys of everything in the checkpoint: tensors, and objects as `key/shard_<place>_<of>`."""
    with _metadata_of(checkpoint) as metadata:
        return frozenset(metadata.state_dict_metadata)


def read_archives(checkpoint: Path) -> list[SavedObject]:
    """Where every archive of the checkpoint lies, whatever it holds, file by file."""
    with _metadata_of(checkpoint) as metadata:
        archives = [
            SavedObject(index.fqn, info.relative_path, info.offset, info.length)
            for index, info in metadata.storage_data.items()
        ]
    return sorted(archives, key=lambda archive: (archive.file, archive.offset))


@contextmanager
def _metadata_of(checkpoint: Path) -> Iterator[Any]:
    """`.metadata`; what is wrong with it, here or while it is used, becomes a `RequestError`."""
    path = checkpoint / METADATA_NAME
    try:
        yield _MetadataUnpickler(io.BytesIO(path.read_bytes())).load()
    except FileNotFoundError:
        raise RequestError(f"{checkpoint} is not a torch_dist checkpoint: {path} does not exist.") from None
    except OSError as error:
        raise RequestError(f"{path} can't be read: {error.strerror}.") from error
    except _DAMAGE as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{path} can't be read as a checkpoint's metadata: {error!r}.") from None


def _global_tensor(key: str, entry: Any, places: Mapping[tuple[str, Any], Any]) -> GlobalTensor:
    chunks: list[Chunk] = []
    for chunk in entry.chunks:
        place = places[key, chunk.offsets]
        if getattr(place, "transform_descriptors", None):
            raise RequestError(
                f"Checkpoint tensor {key} is stored transformed: {place.transform_descriptors}."
            )
        chunks.append(Chunk(chunk.offsets, chunk.sizes, place.relative_path, place.offset, place.length))
    return GlobalTensor(key, entry.size, entry.properties.dtype, tuple(chunks))


class _Inert:
    """Stands for a pickled class that reading has no use for."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None: ...

    def add(self, item: Any) -> None: ...


class _Metadata(_Inert): ...


class _TensorStorageMetadata(_Inert): ...


class _MetadataIndex(_Inert):
    """Hashable after unpickling: torch uses it as a key. Identity is enough, as each occurs once."""

    fqn: str
    offset: tuple[int, ...] | None = None


class _TensorProperties(_Inert):
    dtype: str

    def __setstate__(self, state: Any) -> None:
        self.dtype = state["dtype"] if isinstance(state, dict) else state[0]


_CLASSES = {
    "Metadata": _Metadata,
    "TensorStorageMetadata": _TensorStorageMetadata,
    "TensorProperties": _TensorProperties,
    "MetadataIndex": _MetadataIndex,
}


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch.distributed.checkpoint.metadata" and name in _CLASSES:
            return _CLASSES[name]
        if (module, name) == ("torch", "Size"):
            return lambda sizes=(): tuple(sizes)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return name
        return _Inert
