"""What became of the rows of a data set, counted while they go by."""

from collections import Counter
from typing import Any

import pyarrow.compute as pc

from mindrl.data.handlers import DROP_MEANINGS, DROP_REASONS, DropReason
from mindrl.data.outcome import EXAMPLES, DroppedRow, EncodedChunk
from mindrl.data.preprocess_config import PreprocessConfig
from mindrl.errors import RequestError

EARLY_ROWS = 1000
"""If none of so many rows has a question's or an answer's column, it is misnamed: no need to read the rest."""


class Tally:
    """Counts rows, lengths, and what was dropped. Its size does not depend on the number of rows."""

    def __init__(self, config: PreprocessConfig) -> None:
        self._config = config
        self._needed = dict.fromkeys(config.needed_places())
        self._columns: dict[str, None] = {}
        self._dropped: Counter[DropReason] = Counter()
        self._examples: dict[DropReason, list[DroppedRow]] = {reason: [] for reason in DROP_REASONS}
        self._shortest = self._longest = self._tokens = 0
        self.num_rows = 0
        self.num_prompts = 0

    def add(self, chunk: EncodedChunk) -> None:
        """Count a chunk. `RequestError` for a row that must not be dropped, or a column that is not there."""
        self.num_rows += chunk.num_rows
        self._columns.update(dict.fromkeys(chunk.columns))
        for place in chunk.found:
            self._needed.pop(place, None)
        self._dropped.update(chunk.dropped)
        for example in chunk.examples:
            self._note(example)
        if self.num_rows >= EARLY_ROWS:
            keys = self._config.map_keys
            self._require([place for place in (keys.prompt, keys.response) if place in self._needed])
        if chunk.prompts.num_rows:
            lengths = pc.list_value_length(chunk.prompts.column("prompt_token_ids"))
            shortest, longest = pc.min_max(lengths).as_py().values()
            self._shortest = min(self._shortest, shortest) if self.num_prompts else shortest
            self._longest = max(self._longest, longest)
            self._tokens += pc.sum(lengths).as_py()
            self.num_prompts += chunk.prompts.num_rows

    def facts(self) -> dict[str, Any]:
        """The counts for the .json. `RequestError` for a set without prompts, or without a column that is mapped."""
        source = self._config.input
        if not self.num_rows:
            raise RequestError(f"input {source}: holds no rows")
        counts = {reason: self._dropped[reason] for reason in DROP_REASONS}
        told = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
        if self._columns:
            self._require(list(self._needed))
        if not self.num_prompts:
            remedy = "raise seq_length" if counts["too_long"] else "look at map_keys and handler_name"
            raise RequestError(
                f"input {source}: none of its {self.num_rows} rows gave a prompt ({told}); {remedy}"
            )
        return {
            "num_prompts": self.num_prompts,
            "num_rows": self.num_rows,
            "dropped": counts,
            "dropped_examples": {
                reason: [{"row": each.row, "where": each.where, "starts": each.starts} for each in examples]
                for reason, examples in self._examples.items()
                if examples
            },
            "prompt_length": {
                "min": self._shortest,
                "mean": self._tokens / self.num_prompts,
                "max": self._longest,
            },
        }

    def _note(self, example: DroppedRow) -> None:
        if self._config.on_bad_row == "error" and example.reason != "too_long":
            raise RequestError(
                f"input {self._config.input}: {example.where} {DROP_MEANINGS[example.reason]} "
                f"({example.reason}): {example.starts!r}; on_bad_row=error refuses such a set: repair the row, or "
                "count such rows with on_bad_row=drop"
            )
        examples = self._examples[example.reason]
        if len(examples) < EXAMPLES:
            examples.append(example)

    def _require(self, missing: list[str]) -> None:
        if missing:
            raise RequestError(
                f"input {self._config.input}: has no column {', '.join(missing)}; it has "
                f"{', '.join(self._columns) or 'none'}; name the right ones in map_keys and dataset_additional_keys"
            )
