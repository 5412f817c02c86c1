"""Sampled responses of a step, as a parquet file that `mindrl report` (and anyone) can read.

The columns below are the file format; the report reads them by name and shares no code with the trainer.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
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
)


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One response of a step, as people read it."""

    step: int
    """Training step, from 1."""
    uid: str
    """The prompt's uid; responses to one prompt share it."""
    prompt: str
    response: str
    """Decoded without special tokens, as rewards see it."""
    ground_truth: str
    reward: float
    response_length: int
    """Tokens."""
    finish_reason: str
    data_source: str
    advantage: float


def samples_path(run_dir: Path, step: int) -> Path:
    """samples/step_000010.parquet in the run directory."""
    return run_dir / "samples" / f"step_{step:06d}.parquet"


def write_samples(path: Path, rows: Sequence[SampleRow]) -> None:
    """Write the rows in one piece: a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA), partial)
    os.replace(partial, path)
