"""Whether a converted directory is as it was written, by the checksums that the conversion left in it.

Needs nothing but the directory. Says that no byte has changed since the conversion, not that the conversion was right:
that is what comparing with the source is for.
"""

import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindrl.checkpoint import directories
from mindrl.checkpoint.conversion.manifest import MANIFEST_NAME
from mindrl.checkpoint.formats.torch_archives import find_damage, locate_tensor
from mindrl.checkpoint.formats.torch_dist import METADATA_NAME, SavedObject, read_archives
from mindrl.checkpoint.formats.torch_zip import TensorArchive
from mindrl.errors import RequestError
from mindrl.files import read_json_object

_PIECE_BYTES = 8 << 20


@dataclass(frozen=True)
class Verification:
    """What was found."""

    directory: Path
    by: str
    """Whose checksums were compared, in words."""
    num_files: int
    num_checksums: int
    num_bytes: int
    """That were read."""
    damage: tuple[str, ...]
    """A sentence for everything that is not as it was written."""


@dataclass(frozen=True, slots=True)
class _Span:
    """Bytes of a file that one checksum stands for."""

    file: str
    what: str
    """Name of the tensor, or what else it is."""
    offset: int
    length: int
    crc: int


def verify(
    directory: Path,
    *,
    workers: int = 2,
    advance: Callable[[int], None] = lambda _: None,
    expect: Callable[[int], None] = lambda _: None,
) -> Verification:
    """Compare every byte that has a checksum; `RequestError` for a directory that has none.

    `directory`: what a conversion wrote, or a checkpoint that training saved, whose archives have checksums too."""
    root = _place_of_manifest(directory)
    if not (root / MANIFEST_NAME).exists():
        return _verify_archives(root, advance, expect)
    recorded = _read_manifest(root / MANIFEST_NAME)
    sizes = {name: _size_of(root / name) for name in recorded.sizes}
    damage = [
        sentence
        for name, size in recorded.sizes.items()
        if (sentence := _wrong_size(root / name, sizes[name], size, recorded.spans))
    ]
    spans = [span for span in recorded.spans if span.offset + span.length <= (sizes[span.file] or 0)]
    expect(sum(span.length for span in spans))
    with ThreadPoolExecutor(workers) as pool:
        for span, crc in zip(spans, pool.map(lambda span: _crc(root, span), spans), strict=True):
            advance(span.length)
            if crc != span.crc:
                damage.append(
                    f"{root / span.file} is damaged: {span.what}, bytes {span.offset} to {span.offset + span.length}, "
                    "differs from its checksum."
                )
    if (root / METADATA_NAME).exists() and not damage:
        damage += _damaged_frames(root, recorded.spans)
    return Verification(
        root,
        f"{MANIFEST_NAME}, written by the conversion",
        len(recorded.sizes),
        len(spans),
        sum(span.length for span in spans),
        tuple(damage),
    )


@dataclass(frozen=True, slots=True)
class _Recorded:
    sizes: Mapping[str, int]
    """Of every file that the conversion wrote, by its name in the directory."""
    spans: tuple[_Span, ...]


def _place_of_manifest(directory: Path) -> Path:
    if not directory.is_dir():
        raise RequestError(f"--check {directory} is not a directory: name one that a conversion wrote.")
    if (directory / MANIFEST_NAME).exists():
        return directory
    markers = (directories.TRACKER_NAME, METADATA_NAME)
    if any((directory / name).exists() for name in markers) or directories.holds_rank_files(directory):
        return directories.latest_weights(directory)
    raise RequestError(
        f"--check {directory}: there is no {MANIFEST_NAME} in it, so `mindrl convert` has not written it and there are no "
        "checksums to compare it with. To compare it with other weights, name both: --check A B."
    )


def _read_manifest(path: Path) -> _Recorded:
    content = read_json_object(path)
    try:
        sizes = {_plain(name): _count(file["size"]) for name, file in content["files"].items()}
        spans: list[_Span] = []
        for name, file in content["files"].items():
            records = [(tensor, *place) for tensor, place in file["records"].items()]
            literals = [("what describes its tensors", *place) for place in file.get("literals", ())]
            spans += [
                _Span(name, what, _count(offset), _count(length), _count(crc))
                for what, offset, length, crc in (*literals, *records)
            ]
        for name, (size, crc) in content.get("small_files", {}).items():
            sizes[_plain(name)] = _count(size)
            spans.append(_Span(name, "the whole file", 0, _count(size), _count(crc)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"{path} is no list of checksums that a conversion wrote: {error!r}.") from None
    return _Recorded(sizes, tuple(spans))


def _plain(name: str) -> str:
    if Path(name).name != name:
        raise ValueError(f"{name!r} is not the name of a file in this directory")
    return name


def _count(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!r} is not a number of bytes or a checksum")
    return number


def _size_of(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _wrong_size(path: Path, found: int | None, written: int, spans: tuple[_Span, ...]) -> str | None:
    if found is None:
        return f"{path} is missing."
    if found == written:
        return None
    gone = [span.what for span in spans if span.file == path.name and span.offset + span.length > found]
    tensors = f"; gone, or in part: {_some(gone)}" if gone else ""
    return f"{path} has {found} bytes and was written with {written}{tensors}."


def _crc(root: Path, span: _Span) -> int | None:
    """CRC-32 of the bytes; None where they can't be read."""
    crc, offset, left = 0, span.offset, span.length
    try:
        descriptor = os.open(root / span.file, os.O_RDONLY)
    except OSError:
        return None
    try:
        while left:
            data = os.pread(descriptor, min(left, _PIECE_BYTES), offset)
            if not data:
                return None
            crc, offset, left = zlib.crc32(data, crc), offset + len(data), left - len(data)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return crc


def _damaged_frames(root: Path, spans: tuple[_Span, ...]) -> Iterator[str]:
    """What lies around the tensors in archives, which is as it was written if it is what would be written again."""
    payloads = {(span.file, span.offset): span.crc for span in spans}
    whole = {(span.file, span.offset, span.length) for span in spans}
    for archive in read_archives(root):
        if (archive.file, archive.offset, archive.length) in whole:
            continue  # an object, compared as a whole
        path = root / archive.file
        try:
            with path.open("rb") as file:
                stored = locate_tensor(file, archive.offset, archive.length, archive.key)
                frame = TensorArchive(stored.shape, stored.dtype)
                crc = payloads.get((archive.file, stored.offset), -1)
                before = os.pread(file.fileno(), frame.head_size, archive.offset)
                after = os.pread(file.fileno(), frame.tail_size, stored.offset + stored.num_bytes)
                if crc < 0 or before != frame.head(crc) or after != frame.tail(crc):
                    yield f"{path} is damaged: what lies around {archive.key}, at byte {archive.offset}, has changed."
        except (OSError, RequestError) as error:
            yield f"{path} is damaged: {archive.key}, at byte {archive.offset}: {error}"


def _verify_archives(
    checkpoint: Path, advance: Callable[[int], None], expect: Callable[[int], None]
) -> Verification:
    if directories.holds_rank_files(checkpoint):
        archives = [
            SavedObject(path.stem, str(path.relative_to(checkpoint)), 0, path.stat().st_size)
            for path in sorted(checkpoint.glob("mp_rank_*/*.pt"))
        ]
    else:
        archives = read_archives(checkpoint)
    expect(sum(archive.length for archive in archives))
    damage: list[str] = []
    for archive in archives:
        damage += find_damage(checkpoint, [archive])
        advance(archive.length)
    return Verification(
        checkpoint,
        "the archives of its files, written by training",
        len({archive.file for archive in archives}),
        len(archives),
        sum(archive.length for archive in archives),
        tuple(damage),
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
