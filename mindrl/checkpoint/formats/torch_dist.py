"""Directory of a `torch_dist` checkpoint: which chunk of which tensor lies where, read and written by hand.

Reading maps every pickled class onto one of the few below, or onto one that does nothing, so that no code from a
checkpoint runs and the torch that wrote it does not matter. Writing emits torch's own classes with the oldest set of
fields: later ones have defaults on the class, so that older and newer torch load it.
"""

import importlib
import pickle
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from mindrl.checkpoint.formats.inert_pickle import DAMAGE, PLAIN, Fields, unpickled
from mindrl.errors import RequestError

METADATA_NAME = ".metadata"


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


def prepare_metadata() -> None:
    """Import what `metadata_bytes` needs, aside: it takes a second, and nothing else here needs it."""
    threading.Thread(
        target=importlib.import_module, args=("torch.distributed.checkpoint.filesystem",)
    ).start()


def metadata_bytes(tensors: Sequence[GlobalTensor], objects: Sequence[SavedObject]) -> bytes:
    """Content of `.metadata`."""
    from torch.distributed.checkpoint import filesystem
    from torch.distributed.checkpoint import metadata as dcp

    def storage_info(file: str, offset: int, length: int) -> Any:
        return _with_fields(filesystem._StorageInfo, relative_path=file, offset=offset, length=length)

    entries: dict[str, Any] = {saved.key: dcp.BytesStorageMetadata() for saved in objects}
    storage = {
        dcp.MetadataIndex(saved.key): storage_info(saved.file, saved.offset, saved.length)
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
            storage[index] = storage_info(chunk.file, chunk.offset, chunk.length)
    metadata = _with_fields(
        dcp.Metadata, state_dict_metadata=entries, planner_data=None, storage_data=storage
    )
    return pickle.dumps(metadata, protocol=4)


def _with_fields(cls: type, **fields: Any) -> Any:
    """An instance with exactly these fields, later ones left to their defaults on the class."""
    instance = cls.__new__(cls)
    instance.__dict__.update(fields)
    return instance


def read_directory(checkpoint: Path) -> dict[str, GlobalTensor]:
    """Every tensor of the checkpoint by key; objects are left out.

    Chunks lie in their tensors and archives apart from each other; whether chunks fill the tensor is not looked at."""
    with _metadata_of(checkpoint) as metadata:
        entries: Mapping[str, Any] = metadata.state_dict_metadata
        places = {(index.fqn, index.offset): info for index, info in metadata.storage_data.items()}
        tensors = {
            key: _global_tensor(checkpoint, key, entry, places)
            for key, entry in entries.items()
            if isinstance(entry, _TensorStorageMetadata)
        }
        _check_archives(checkpoint, places)
    return tensors


def read_keys(checkpoint: Path) -> frozenset[str]:
    """Keys of everything in the checkpoint: tensors, and objects as `key/shard_<place>_<of>`."""
    with _metadata_of(checkpoint) as metadata:
        return frozenset(map(str, metadata.state_dict_metadata))


def read_archives(checkpoint: Path) -> list[SavedObject]:
    """Where every archive of the checkpoint lies, whatever it holds, file by file."""
    with _metadata_of(checkpoint) as metadata:
        places = {(index.fqn, index.offset): info for index, info in metadata.storage_data.items()}
        return _check_archives(checkpoint, places)


@contextmanager
def _metadata_of(checkpoint: Path) -> Iterator[Any]:
    """`.metadata`; what is wrong with it, here or while it is used, becomes a `RequestError`."""
    path = checkpoint / METADATA_NAME
    try:
        yield unpickled(path.read_bytes(), _CLASSES)
    except FileNotFoundError:
        raise RequestError(f"{checkpoint} is not a torch_dist checkpoint: {path} does not exist.") from None
    except OSError as error:
        raise RequestError(f"{path} can't be read: {error.strerror}.") from error
    except DAMAGE as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(
            f"{path} can't be read as a checkpoint's metadata: {error!r}. Copy or convert the checkpoint again."
        ) from None


def _global_tensor(
    checkpoint: Path, key: Any, entry: Any, places: Mapping[tuple[str, Any], Any]
) -> GlobalTensor:
    shape, dtype = entry.size, entry.properties.dtype
    if not isinstance(key, str) or not isinstance(dtype, str) or not _are_counts(shape):
        raise ValueError(f"{key!r} is no tensor: {dtype!r} {shape!r}")
    chunks: list[Chunk] = []
    for chunk in entry.chunks:
        offsets, sizes, place = chunk.offsets, chunk.sizes, places[key, chunk.offsets]
        if getattr(place, "transform_descriptors", None):
            raise RequestError(
                f"Checkpoint tensor {key} is stored transformed: {place.transform_descriptors}."
            )
        if (
            not _are_counts(offsets)
            or not _are_counts(sizes)
            or not len(offsets) == len(sizes) == len(shape)
            or any(offset + size > length for offset, size, length in zip(offsets, sizes, shape, strict=True))
        ):
            raise RequestError(
                f"{checkpoint / METADATA_NAME} is damaged: {key} has shape {shape}, and a chunk of {sizes!r} at "
                f"{offsets!r}. Copy or convert the checkpoint again."
            )
        chunks.append(Chunk(offsets, sizes, place.relative_path, place.offset, place.length))
    return GlobalTensor(key, shape, dtype, tuple(chunks))


def _are_counts(numbers: Any) -> bool:
    return isinstance(numbers, tuple) and all(type(number) is int and number >= 0 for number in numbers)


def _check_archives(checkpoint: Path, places: Mapping[tuple[str, Any], Any]) -> list[SavedObject]:
    """Every archive, file by file; each lies in a file of the checkpoint, none in another one's bytes.

    Objects may be one and the same archive."""
    archives: list[tuple[SavedObject, bool]] = []
    for (key, offsets), info in places.items():
        file, span = info.relative_path, (info.offset, info.length)
        if not isinstance(file, str) or Path(file).name != file or not _are_counts(span):
            raise ValueError(f"{key!r} is said to lie at {span!r} of {file!r}")
        archives.append((SavedObject(str(key), file, *span), offsets is None))
    archives.sort(key=lambda archive: (archive[0].file, archive[0].offset))
    for (before, first_is_object), (after, second_is_object) in pairwise(archives):
        if before.file != after.file or before.offset + before.length <= after.offset:
            continue
        same = (before.offset, before.length) == (after.offset, after.length)
        if not (same and first_is_object and second_is_object):
            raise RequestError(
                f"{checkpoint / METADATA_NAME} is damaged: {before.key} and {after.key} are both said to lie at byte "
                f"{after.offset} of {before.file}. Copy or convert the checkpoint again."
            )
    return [archive for archive, _ in archives]


class _Metadata(Fields):
    state_dict_metadata: Mapping[str, Any]
    storage_data: Mapping[Any, Any]


class _TensorStorageMetadata(Fields): ...


class _MetadataIndex(Fields):
    """Hashable after unpickling: torch uses it as a key. Identity is enough, as each occurs once."""

    fqn: str
    offset: tuple[int, ...] | None = None


class _TensorProperties(Fields):
    dtype: str

    def __setstate__(self, state: Any) -> None:
        self.dtype = state["dtype"] if isinstance(state, dict) else state[0]


_MODULE = "torch.distributed.checkpoint.metadata"
_CLASSES = PLAIN | {
    (_MODULE, "Metadata"): _Metadata,
    (_MODULE, "TensorStorageMetadata"): _TensorStorageMetadata,
    (_MODULE, "ChunkStorageMetadata"): Fields,
    (_MODULE, "TensorProperties"): _TensorProperties,
    (_MODULE, "MetadataIndex"): _MetadataIndex,
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): Fields,
}
