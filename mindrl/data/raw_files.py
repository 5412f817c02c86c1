"""Raw data sets: rows of json, jsonl and parquet files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mindrl.errors import RequestError

SUFFIXES = (".json", ".jsonl", ".parquet")

RawRow = dict[str, Any] | None
"""A row by column; None for a line that is not a JSON object."""


def read_rows(path: Path, needed: Sequence[str]) -> list[RawRow]:
    """All rows of a file, or of every such file in a folder, by name.

    Raises `RequestError` if there are none, or one of the `needed` columns is in no row."""
    rows = [row for file in _files(path) for row in _read(file)]
    if not rows:
        raise RequestError(f"input {path}: holds no rows")
    found = list(dict.fromkeys(column for row in rows if row is not None for column in row))
    if missing := [column for column in needed if column not in found]:
        raise RequestError(
            f"input {path}: has no column {', '.join(missing)}; it has {', '.join(found) or 'none'}; "
            "name the right ones in map_keys and dataset_additional_keys"
        )
    return rows


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise RequestError(
                f"input {path}: can't read this kind of file; it must be one of {', '.join(SUFFIXES)}"
            )
        return [path]
    if not path.is_dir():
        raise RequestError(f"input {path}: no such file or folder")
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not files:
        raise RequestError(f"input {path}: this folder holds no file of {', '.join(SUFFIXES)}")
    return files


def _read(file: Path) -> list[RawRow]:
    try:
        if file.suffix == ".parquet":
            return pq.read_table(file).to_pylist()
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".jsonl":
            return [_object(line) for line in text.splitlines() if line.strip()]
        values = json.loads(text)
    except (ValueError, RecursionError, OSError, pa.ArrowException) as error:
        raise RequestError(f"input {file}: can't be read as {file.suffix[1:]}: {error}") from error
    if not isinstance(values, list):
        raise RequestError(f"input {file}: expected a list of objects, found {type(values).__name__}")
    return [value if isinstance(value, dict) else None for value in values]


def _object(line: str) -> RawRow:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
