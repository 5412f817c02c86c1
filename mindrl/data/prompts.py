"""Prompts for training and evaluation: read from preprocessed data sets, and the order they are drawn in."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mindrl.data.fingerprint import tokenizer_hash
from mindrl.data.prompt_file import facts_path, read_prompt_file
from mindrl.data.records import Prompt
from mindrl.errors import RequestError


class PromptDataset(Sequence[Prompt]):
    """The prompts of one preprocessed file; a prompt is decoded when it is asked for."""

    def __init__(self, path: Path, table: pa.Table, facts: Mapping[str, Any]) -> None:
        self.path = path
        self.facts = facts
        """What `mindrl preprocess` wrote beside the prompts."""
        self._columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        self._length = table.num_rows

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prompt]: ...
    def __getitem__(self, index: int | slice) -> Prompt | list[Prompt]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(self._length))]
        row = {name: column[index] for name, column in self._columns.items()}
        return Prompt(
            uid=row["uid"].as_py(),
            prompt=row["prompt"].as_py(),
            prompt_token_ids=row["prompt_token_ids"].values.to_numpy(),
            ground_truth=row["ground_truth"].as_py(),
            data_source=row["data_source"].as_py(),
            extra=json.loads(row["extra"].as_py()),
            images=tuple(row["images"].as_py()),
        )

    def __iter__(self) -> Iterator[Prompt]:
        return (self[index] for index in range(self._length))

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return pc.max(pc.list_value_length(self._columns["prompt_token_ids"])).as_py()

    def check(self, *, tokenizer_dir: Path, max_prompt_length: int) -> None:
        """`RequestError` if the prompts were made with another tokenizer, or one is longer than allowed."""
        wanted, found = self.facts.get("tokenizer_hash"), tokenizer_hash(tokenizer_dir)
        if wanted != found:
            raise RequestError(
                f"data set {self.path}: its token ids are of the tokenizer in {self.facts.get('tokenizer')} ({wanted}), "
                f"the model's tokenizer in {tokenizer_dir} is another ({found}); preprocess with "
                f"tokenizer_name_or_path={tokenizer_dir}"
            )
        if self.longest_prompt > max_prompt_length:
            raise RequestError(
                f"data set {self.path}: its longest prompt has {self.longest_prompt} tokens, data.max_prompt_length is "
                f"{max_prompt_length}; raise it, or preprocess with seq_length={max_prompt_length}, which drops and "
                "counts longer ones"
            )


def load_prompts(path: Path) -> PromptDataset:
    """Open a .parquet file that `mindrl preprocess` wrote; `RequestError` if it is not one."""
    table, facts = read_prompt_file(path)
    if facts.get("num_prompts") != table.num_rows:
        raise RequestError(
            f"data set {path}: holds {table.num_rows} prompts, {facts_path(path)} says {facts.get('num_prompts')}; "
            "the two belong to different runs of `mindrl preprocess`: run it again"
        )
    return PromptDataset(path, table, facts)


class PromptStream:
    """An endless, reproducible sequence of prompts from one or several sets.

    Each set is shuffled anew for each of its epochs, by a permutation that depends on the seed, the set's position
    in the list and the epoch only. So the whole state is how many prompts were drawn from each set."""

    def __init__(self, sources: Sequence[tuple[Sequence[Prompt], float]], *, seed: int) -> None:
        """`sources` are (prompts, weight): of many draws, each set gets its weight's share of all weights."""
        if not sources:
            raise RequestError("data.train: names no data set; a run needs at least one")
        self._sets = [prompts for prompts, _ in sources]
        total = sum(weight for _, weight in sources)
        self._shares = [weight / total for _, weight in sources]
        self._seed = seed
        self._drawn = [0] * len(sources)
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    @property
    def epochs(self) -> tuple[int, ...]:
        """How often each set has been gone through completely."""
        return tuple(drawn // len(prompts) for drawn, prompts in zip(self._drawn, self._sets, strict=True))

    def next_batch(self, num_prompts: int) -> list[Prompt]:
        """The next prompts. A set that ends inside the batch goes on with its next epoch."""
        return [self._draw(self._furthest_behind()) for _ in range(num_prompts)]

    def state(self) -> dict[str, object]:
        """Plain values that `load_state` continues from."""
        return {"drawn": list(self._drawn), **self._identity()}

    def load_state(self, state: Mapping[str, object]) -> None:
        """Continue where `state()` was taken; `RequestError` if that was with other sets, weights or seed."""
        for name, value in self._identity().items():
            if state[name] != value:
                raise RequestError(
                    f"resume: the saved run drew its prompts with {name} {state[name]}, this one has {value}; "
                    "data.train and data.seed must stay as they were"
                )
        self._drawn = list(state["drawn"])

    def _identity(self) -> dict[str, object]:
        return {"seed": self._seed, "sizes": [len(prompts) for prompts in self._sets], "shares": self._shares}

    def _furthest_behind(self) -> int:
        """The set that lags most behind its share of the draws so far; the first of several."""
        next_draw = sum(self._drawn) + 1
        lags = [share * next_draw - drawn for share, drawn in zip(self._shares, self._drawn, strict=True)]
        return lags.index(max(lags))

    def _draw(self, index: int) -> Prompt:
        prompts = self._sets[index]
        epoch, position = divmod(self._drawn[index], len(prompts))
        self._drawn[index] += 1
        return prompts[int(self._order(index, epoch)[position])]

    def _order(self, index: int, epoch: int) -> np.ndarray:
        if self._orders.get(index, (-1,))[0] != epoch:
            generator = np.random.default_rng([self._seed, index, epoch])
            self._orders[index] = (epoch, generator.permutation(len(self._sets[index])))
        return self._orders[index][1]
