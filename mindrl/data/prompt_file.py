"""The preprocessed data set: a parquet file of prompts, and a .json beside it that says how they were made."""

import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from mindrl.errors import RequestError
from mindrl.files import read_json_object

SCHEMA_VERSION = 1
SCHEMA = pa.schema(
    [
        pa.field("schema_version", pa.int32()),
        pa.field("uid", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("prompt_token_ids", pa.list_(pa.int32())),
        pa.field("ground_truth", pa.string()),
        pa.field("data_source", pa.string()),
        pa.field("extra", pa.string()),
        pa.field("images", pa.list_(pa.binary())),
    ]
)

ROW_GROUP_BYTES = 16 << 20
"""Rows are written in groups of about this size."""

Row = Mapping[str, Any]
"""A row, by the names of `SCHEMA`."""


def facts_path(path: Path) -> Path:
    """The .json beside a .parquet file."""
    return path.with_suffix(".json")


class PromptWriter:
    """Writes a data set's two files piece by piece beside their places; `finish` puts them there.

    A context: left without `finish`, it leaves nothing behind. `RequestError` where the disk takes no more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        self._partial_facts = facts_path(path).with_name(f"{facts_path(path).name}.{os.getpid()}.partial")
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._new_folders: list[Path] = []

    def add(self, prompts: pa.RecordBatch) -> None:
        """Append rows of `SCHEMA`."""
        self._waiting.append(prompts)
        if sum(batch.nbytes for batch in self._waiting) > ROW_GROUP_BYTES:
            self._flush()

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Write the rest, then rename both, the one that readers ask for first last."""
        self._flush()
        if self._writer:
            self._writer.close()
        self._partial_facts.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        self._partial_facts.replace(facts_path(self._path))
        self._partial.replace(self._path)
        self._new_folders = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._writer:
                self._writer.close()
        except OSError as failed:
            error = error or failed
        self._partial.unlink(missing_ok=True)
        self._partial_facts.unlink(missing_ok=True)
        for folder in self._new_folders:
            if not any(folder.iterdir()):
                folder.rmdir()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RequestError(
                f"output {self._path}: {os.strerror(error.errno)}; nothing was left there: make room, or name another "
                "output_prefix"
            ) from error

    def _flush(self) -> None:
        if self._writer is None:
            folder = self._path.parent
            self._new_folders = [place for place in (folder, *folder.parents) if not place.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._partial, SCHEMA, compression="zstd")
        self._writer.write_table(pa.Table.from_batches(self._waiting, SCHEMA))
        self._waiting = []


def write_prompt_file(path: Path, rows: Sequence[Row], facts: Mapping[str, Any]) -> None:
    """Write both files at once."""
    with PromptWriter(path) as writer:
        writer.add(pa.RecordBatch.from_pylist(list(rows), schema=SCHEMA))
        writer.finish(facts)


def read_prompt_file(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """The rows and the facts; `RequestError` for files that `mindrl preprocess` of this version did not write."""
    remedy = "write it with `mindrl preprocess`"
    for needed in (path, facts_path(path)):
        if not needed.is_file():
            raise RequestError(f"data set {path}: {needed} is not there; {remedy}")
    try:
        facts = read_json_object(facts_path(path))
        table = pq.read_table(path, memory_map=True)
    except (ValueError, OSError, pa.ArrowException) as error:
        raise RequestError(f"data set {path}: can't be read: {error}; {remedy} again") from error
    if table.schema.names != SCHEMA.names:
        raise RequestError(
            f"data set {path}: has columns {', '.join(table.schema.names)}, expected {', '.join(SCHEMA.names)}; {remedy}"
        )
    versions = set(table.column("schema_version").unique().to_pylist()) | {facts.get("schema_version")}
    if table.num_rows == 0:
        raise RequestError(f"data set {path}: holds no prompts; its .json says what was dropped and why")
    if versions != {SCHEMA_VERSION}:
        raise RequestError(
            f"data set {path}: schema version {sorted(versions, key=str)}, this program reads {SCHEMA_VERSION}; {remedy} again"
        )
    try:
        table = table.cast(SCHEMA)
    except pa.ArrowException as error:
        raise RequestError(
            f"data set {path}: a column has the wrong type: {error}; {remedy} again"
        ) from error
    if empty := [name for name in SCHEMA.names if table.column(name).null_count]:
        raise RequestError(f"data set {path}: rows lack a value in {', '.join(empty)}; {remedy} again")
    return table, facts
