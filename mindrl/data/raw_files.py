"""Raw data sets: json, jsonl and parquet files, compressed ones, read in chunks of rows."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from mindrl.data.hub import HUB_PREFIX, download
from mindrl.data.json_rows import WINDOW_BYTES, BrokenFile, CutRow, lines, list_or_lines
from mindrl.errors import RequestError

KINDS = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_OPENERS: Mapping[str, Callable[[Path], Any]] = {
    "": lambda path: path.open("rb", buffering=0),
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda path: pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"),
}
COMPRESSIONS = tuple(ending for ending in _OPENERS if ending)
READABLE = ".json, .jsonl or .parquet, the first two also with .gz, .bz2, .xz or .zst"

CHUNK_ROWS = 256
CHUNK_BYTES = 4 << 20
"""A chunk ends at either; several are in memory at a time."""

_DAMAGED = (BrokenFile, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, pa.ArrowException)


@dataclass(frozen=True, slots=True)
class RawFile:
    """One file of a data set."""

    path: Path
    kind: str
    """`json`, `jsonl` or `parquet`."""
    compression: str
    """One of `COMPRESSIONS`, or empty."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row, as far as it has been read."""

    position: int
    """Line of the file, or row of it, counted from 1."""
    content: bytes | Mapping[str, Any] | None
    """JSON not parsed yet, or values by column; None where text of the row is not UTF-8."""
    too_large: bool = False
    """`content` is then the beginning of the row only."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows that stand one after the other in a file."""

    file: str
    unit: str
    """What positions count: `line` or `row`."""
    first: int
    """Number of the first row in the whole data set, from 0."""
    rows: tuple[Row, ...]


def find_files(source: str) -> list[RawFile]:
    """The file `source`, those of a folder by name, or those of a Hugging Face data set; `RequestError` if none."""
    if source.startswith(HUB_PREFIX):
        return [raw_file(path) for path in download(source, is_readable)]
    path = Path(source)
    if path.is_file():
        return [raw_file(path)]
    if not path.is_dir():
        on_hub = f"; a data set of the Hugging Face hub is written {HUB_PREFIX}{source}"
        raise RequestError(f"input {source}: no such file or folder{on_hub if _may_be_hub(source) else ''}")
    found = sorted(file for file in path.iterdir() if file.is_file() and is_readable(file.name))
    if not found:
        folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
        hint = f"; it has the folders {', '.join(folders)}: name one of them" if folders else ""
        raise RequestError(f"input {source}: this folder holds no file of {READABLE}{hint}")
    return [raw_file(file) for file in found]


def raw_file(path: Path) -> RawFile:
    """What kind of file that is, by its name; `RequestError` for one that can't be read."""
    compression = path.suffix if path.suffix in COMPRESSIONS else ""
    kind = KINDS.get(path.with_suffix("").suffix if compression else path.suffix)
    if kind is None or (compression and kind == "parquet"):
        reason = "decompress it first, parquet is read at any place" if kind else f"it must be {READABLE}"
        raise RequestError(f"input {path}: can't read this kind of file; {reason}")
    return RawFile(path, kind, compression)


def is_readable(name: str) -> bool:
    """Whether a file of that name holds rows."""
    path = Path(name)
    if path.suffix in COMPRESSIONS:
        return KINDS.get(path.with_suffix("").suffix) in ("json", "jsonl")
    return path.suffix in KINDS


def read_chunks(files: Iterable[RawFile], max_row_bytes: int) -> Iterator[Chunk]:
    """All rows, a few at a time; `RequestError` for a file that is damaged as a whole."""
    first = 0
    for file in files:
        unit = "row" if file.kind != "jsonl" else "line"
        try:
            for rows in _group(_read(file, max_row_bytes)):
                yield Chunk(file.path.name, unit, first, tuple(rows))
                first += len(rows)
        except _DAMAGED as error:
            kind = f"{file.kind} in {file.compression[1:]}" if file.compression else file.kind
            raise RequestError(
                f"input {file.path}: can't be read as {kind}: {error}; repair or fetch the file again"
            ) from error


def _group(rows: Iterator[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row.content) if isinstance(row.content, bytes) else 0
        if len(group) == CHUNK_ROWS or size >= CHUNK_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _read(file: RawFile, max_row_bytes: int) -> Iterator[Row]:
    if file.kind == "parquet":
        yield from _parquet_rows(file.path)
        return
    cut = lines if file.kind == "jsonl" else list_or_lines
    with _open(file) as stream:
        for row in cut(stream, max_row_bytes):
            yield _as_row(row)


def _as_row(row: CutRow) -> Row:
    return Row(row.position, row.content, row.too_large)


def _open(file: RawFile) -> BufferedReader:
    return BufferedReader(cast(Any, _OPENERS[file.compression](file.path)), WINDOW_BYTES)


def _parquet_rows(path: Path) -> Iterator[Row]:
    """Rows of row groups, decoded page by page, so that a file of one large row group stays out of memory too."""
    position = 0
    with pq.ParquetFile(path, buffer_size=WINDOW_BYTES, pre_buffer=False) as file:
        for batch in file.iter_batches(CHUNK_ROWS, use_threads=False):
            for values in _values(batch):
                position += 1
                yield Row(position, values)


def _values(batch: pa.RecordBatch) -> list[dict[str, Any] | None]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        return [_value(batch.slice(index, 1)) for index in range(batch.num_rows)]


def _value(row: pa.RecordBatch) -> dict[str, Any] | None:
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError:
        return None


def _may_be_hub(source: str) -> bool:
    return source.count("/") == 1 and not is_readable(source) and not source.startswith((".", "/", "~"))
