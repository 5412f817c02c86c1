"""Reading preprocessed prompts, and the order in which training draws them."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindrl.data.fingerprint import tokenizer_hash
from mindrl.data.prompt_file import facts_path
from mindrl.data.prompts import PromptStream, load_prompts
from mindrl.data.records import Prompt
from mindrl.errors import RequestError


def prompts(name: str, count: int) -> list[Prompt]:
    ids = np.array([1], dtype=np.int32)
    return [Prompt(f"{name}-{i}", "text", ids, "answer", name) for i in range(count)]


def uids(batch: list[Prompt]) -> list[str]:
    return [prompt.uid for prompt in batch]


@given(size=st.integers(1, 20), seed=st.integers(0, 2**31), epochs=st.integers(1, 4))
def test_an_epoch_draws_every_prompt_exactly_once(size: int, seed: int, epochs: int):
    source = prompts("a", size)
    stream = PromptStream([(source, 1.0)], seed=seed)
    for epoch in range(epochs):
        assert stream.epochs == (epoch,)
        assert sorted(uids(stream.next_batch(size))) == sorted(uids(source))


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    seed=st.integers(0, 99),
    before=st.integers(0, 40),
    after=st.integers(1, 40),
)
def test_a_resumed_stream_continues_as_if_never_interrupted(
    sizes: list[int], seed: int, before: int, after: int
):
    sources = [(prompts(str(i), size), 1.0 + i) for i, size in enumerate(sizes)]
    stream = PromptStream(sources, seed=seed)
    stream.next_batch(before)
    resumed = PromptStream(sources, seed=seed)
    resumed.load_state(json.loads(json.dumps(stream.state())))
    assert uids(resumed.next_batch(after)) == uids(stream.next_batch(after))


@given(
    weights=st.lists(st.floats(0.1, 10.0), min_size=2, max_size=4),
    batches=st.lists(st.integers(1, 50), min_size=1, max_size=5),
)
def test_each_set_gets_its_share_of_the_draws_at_any_time(weights: list[float], batches: list[int]):
    stream = PromptStream([(prompts(str(i), 5), weight) for i, weight in enumerate(weights)], seed=0)
    counts: Counter[str] = Counter()
    for size in batches:
        counts.update(prompt.data_source for prompt in stream.next_batch(size))
        for i, weight in enumerate(weights):
            share = weight / sum(weights) * counts.total()
            assert abs(counts[str(i)] - share) < len(weights)


def test_epochs_and_seeds_are_shuffled_differently():
    stream = PromptStream([(prompts("a", 50), 1.0)], seed=0)
    first, second = uids(stream.next_batch(50)), uids(stream.next_batch(50))
    other = uids(PromptStream([(prompts("a", 50), 1.0)], seed=1).next_batch(50))
    assert first != second
    assert first != other
    assert first == uids(PromptStream([(prompts("a", 50), 1.0)], seed=0).next_batch(50))


def test_resuming_with_other_data_is_refused():
    state = PromptStream([(prompts("a", 5), 1.0)], seed=0).state()
    with pytest.raises(RequestError, match=r"sizes \[5\], this one has \[6\]"):
        PromptStream([(prompts("a", 6), 1.0)], seed=0).load_state(state)


def test_a_data_set_is_a_sequence_of_prompts(dataset: Path):
    loaded = load_prompts(dataset)
    assert len(loaded) == 7
    assert loaded[-1].ground_truth == "6"
    assert [prompt.uid for prompt in loaded[2:4]] == ["set-0000002", "set-0000003"]
    assert loaded[0].prompt_token_ids.dtype == np.int32
    assert loaded.longest_prompt == len("question 0")
    with pytest.raises(IndexError):
        loaded[7]


def test_prompts_of_another_tokenizer_are_refused(dataset: Path, tokenizer_dir: Path, tmp_path: Path):
    loaded = load_prompts(dataset)
    loaded.check(tokenizer_dir=tokenizer_dir, max_prompt_length=10)
    content = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    content["padding"] = {"direction": "Left"}  # what a call leaves behind; the ids stay the same
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    loaded.check(tokenizer_dir=tmp_path, max_prompt_length=10)
    content["model"]["vocab"]["A"], content["model"]["vocab"]["B"] = 34, 33
    content["model"]["vocab"]["!"] = 99
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(RequestError, match=r"tokenizer.*is another"):
        loaded.check(tokenizer_dir=tmp_path, max_prompt_length=10)


def test_prompts_longer_than_training_allows_are_refused(dataset: Path, tokenizer_dir: Path):
    with pytest.raises(RequestError, match=r"longest prompt has 10 tokens, data.max_prompt_length is 9"):
        load_prompts(dataset).check(tokenizer_dir=tokenizer_dir, max_prompt_length=9)


def test_a_directory_without_a_tokenizer_has_no_hash(tmp_path: Path):
    with pytest.raises(RequestError, match=r"holds neither tokenizer.json nor"):
        tokenizer_hash(tmp_path)


def test_a_data_set_without_its_facts_is_refused(dataset: Path):
    facts_path(dataset).unlink()
    with pytest.raises(RequestError, match=r"set\.json is not there"):
        load_prompts(dataset)


def test_a_data_set_of_another_schema_version_is_refused(dataset: Path):
    facts = json.loads(facts_path(dataset).read_text())
    facts_path(dataset).write_text(json.dumps({**facts, "schema_version": 2}))
    with pytest.raises(RequestError, match="schema version"):
        load_prompts(dataset)


def test_facts_of_another_file_are_refused(dataset: Path):
    facts = json.loads(facts_path(dataset).read_text())
    facts_path(dataset).write_text(json.dumps({**facts, "num_prompts": 8}))
    with pytest.raises(RequestError, match=r"holds 7 prompts.*says 8"):
        load_prompts(dataset)


def test_any_other_parquet_file_is_refused(dataset: Path):
    pq.write_table(pq.read_table(dataset).drop_columns(["uid"]), dataset)
    with pytest.raises(RequestError, match=r"has columns .* expected"):
        load_prompts(dataset)
