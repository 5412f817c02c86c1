"""Sampled responses of a step, as a parquet file that `mindrl report` (and anyone) can read.

The columns below are the file format: what people read first, then token by token what `rollout.engine: replay` gives
again. The report reads them by name and shares no code with the trainer.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mindrl.data.records import Sample

READABLE_COLUMNS = [
    ("step", pa.int32()),
    ("uid", pa.string()),
    ("prompt", pa.string()),
    ("response", pa.string()),
    ("ground_truth", pa.string()),
    ("reward", pa.float64()),
    ("response_length", pa.int32()),
    ("finish_reason", pa.string()),
    ("data_source", pa.string()),
    ("advantage", pa.float64()),
]
TOKEN_COLUMNS = [
    ("sample_id", pa.int32()),
    ("group_id", pa.int32()),
    ("prompt_ids", pa.list_(pa.int32())),
    ("response_ids", pa.list_(pa.int32())),
    ("response_mask", pa.list_(pa.bool_())),
    ("rollout_log_probs", pa.list_(pa.float32())),
    ("weight_version", pa.list_(pa.int32())),
]
"""The fields of `mindrl.data.records.Sample`, but for finish_reason, which people read too."""
SCHEMA = pa.schema(READABLE_COLUMNS + TOKEN_COLUMNS)


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One response of a step, as people read it, and token by token."""

    step: int
    """Training step, from 1."""
    uid: str
    """The prompt's uid; responses to one prompt share it."""
    prompt: str
    response: str
    """Decoded without special tokens, as rewards see it."""
    ground_truth: str
    reward: float
    data_source: str
    advantage: float
    sample: Sample


def samples_path(run_dir: Path, step: int) -> Path:
    """samples/step_000010.parquet in the run directory."""
    return run_dir / "samples" / f"step_{step:06d}.parquet"


def write_samples(path: Path, rows: Sequence[SampleRow]) -> None:
    """Write the rows in one piece: a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.table([_column(field, rows) for field in SCHEMA], schema=SCHEMA), partial)
    os.replace(partial, path)


def read_samples(path: Path) -> list[Sample]:
    """The samples of a file, token by token, in the order in which they were written."""
    table = pq.read_table(path, columns=[name for name, _ in TOKEN_COLUMNS] + ["finish_reason"])
    columns = [_values(table[name]) for name in table.column_names]
    return [
        Sample(**dict(zip(table.column_names, values, strict=True))) for values in zip(*columns, strict=True)
    ]


def lacking_columns(path: Path) -> list[str]:
    """Columns of the format that a file lacks; earlier versions wrote no tokens. Reads the file's end only."""
    return [name for name in SCHEMA.names if name not in pq.read_schema(path).names]


def _column(field: pa.Field, rows: Sequence[SampleRow]) -> pa.Array:
    if field.name == "response_length":
        return pa.array([len(row.sample.response_ids) for row in rows], field.type)
    of_sample = field.name == "finish_reason" or field.name in dict(TOKEN_COLUMNS)
    return pa.array([getattr(row.sample if of_sample else row, field.name) for row in rows], field.type)


def _values(column: pa.ChunkedArray) -> list[Any]:
    """One value a row; lists become arrays without a detour through Python's numbers."""
    if not pa.types.is_list(column.type):
        return column.to_pylist()
    lists = column.combine_chunks()
    ends = np.cumsum(lists.value_lengths().to_numpy())
    return np.split(lists.flatten().to_numpy(zero_copy_only=False), ends[:-1])
