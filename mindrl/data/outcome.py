"""What became of a chunk of rows: prompts, and counts of what was dropped."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from mindrl.data.columns import MISSING, find_value
from mindrl.data.handlers import DropReason
from mindrl.data.preprocess_config import PreprocessConfig
from mindrl.data.prompt_file import SCHEMA, SCHEMA_VERSION
from mindrl.data.raw_files import Chunk, Row

EXAMPLES = 3
"""Dropped rows that are named, of each reason the first ones."""
_EXCERPT = 80


class Encoded(NamedTuple):
    """A row that became a prompt."""

    prompt: str
    """Template included."""
    prompt_token_ids: list[int]
    ground_truth: str
    extra: str
    """JSON object of the additional columns."""


@dataclass(frozen=True, slots=True)
class DroppedRow:
    """A row that gave no prompt."""

    row: int
    """Its number in the whole data set, from 0; the number in a prompt's uid."""
    where: str
    """File, and line or row in it from 1."""
    reason: DropReason
    starts: str
    """Its beginning."""


@dataclass(frozen=True, slots=True)
class EncodedChunk:
    """What became of a chunk of rows."""

    num_rows: int
    prompts: pa.RecordBatch
    """[num_prompts] rows of the prompt file."""
    dropped: Mapping[DropReason, int]
    examples: Sequence[DroppedRow]
    """The first of each reason."""
    columns: Sequence[str]
    """Columns that occur."""
    found: frozenset[str]
    """Those of the needed places that occur."""


@dataclass(slots=True)
class ChunkOutcome:
    """An `EncodedChunk` in the making."""

    chunk: Chunk
    config: PreprocessConfig
    kept: list[tuple[int, Encoded]] = field(default_factory=list[tuple[int, Encoded]])
    dropped: Counter[DropReason] = field(default_factory=Counter[DropReason])
    examples: list[DroppedRow] = field(default_factory=list[DroppedRow])
    columns: dict[str, None] = field(default_factory=dict[str, None])
    found: set[str] = field(default_factory=set[str])

    def note_columns(self, values: Mapping[str, Any]) -> None:
        self.columns.update(dict.fromkeys(values))
        self.found.update(
            place
            for place in self.config.needed_places()
            if place not in self.found and find_value(values, place) is not MISSING
        )

    def keep(self, number: int, encoded: Encoded) -> None:
        self.kept.append((number, encoded))

    def drop(self, number: int, row: Row, reason: DropReason) -> None:
        self.dropped[reason] += 1
        if self.dropped[reason] <= EXAMPLES:
            where = f"{self.chunk.file} {self.chunk.unit} {row.position}"
            self.examples.append(DroppedRow(number, where, reason, _excerpt(row)))

    def finish(self) -> EncodedChunk:
        name, count = self.config.output_prefix.name, len(self.kept)
        encoded = [encoded for _, encoded in self.kept]
        columns = {
            "schema_version": [SCHEMA_VERSION] * count,
            "uid": [f"{name}-{number:07d}" for number, _ in self.kept],
            "prompt": [each.prompt for each in encoded],
            "prompt_token_ids": [each.prompt_token_ids for each in encoded],
            "ground_truth": [each.ground_truth for each in encoded],
            "data_source": [name] * count,
            "extra": [each.extra for each in encoded],
            "images": [[]] * count,
        }
        prompts = pa.RecordBatch.from_pydict(columns, schema=SCHEMA)
        return EncodedChunk(
            len(self.chunk.rows),
            prompts,
            dict(self.dropped),
            self.examples,
            tuple(self.columns),
            frozenset(self.found),
        )


def _excerpt(row: Row) -> str:
    content = row.content
    if isinstance(content, bytes):
        return content[: 4 * _EXCERPT].decode("utf-8", "backslashreplace").strip()[:_EXCERPT]
    shown = {} if content is None else {key: str(value)[:_EXCERPT] for key, value in content.items()}
    return json.dumps(shown)[:_EXCERPT]
