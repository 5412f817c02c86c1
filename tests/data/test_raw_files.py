"""Raw files: the kinds and compressions that are read, broken rows, damaged files."""

import bz2
import gzip
import io
import json
import lzma
import random
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindrl.data import json_rows
from mindrl.data.json_rows import BrokenFile, list_items
from mindrl.data.preprocess import preprocess
from mindrl.data.preprocess_config import PreprocessConfig
from mindrl.data.prompt_file import facts_path
from mindrl.data.prompts import load_prompts
from mindrl.data.raw_files import CHUNK_BYTES, find_files, read_chunks
from mindrl.errors import RequestError

MakeConfig = Callable[..., PreprocessConfig]
ROWS = [{"question": f"q {i} é", "answer": str(i), "system": ""} for i in range(600)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
LIST = json.dumps(ROWS, indent=1, ensure_ascii=False).encode()
COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


def dropped(facts: Mapping[str, Any]) -> dict[str, int]:
    return {reason: count for reason, count in facts["dropped"].items() if count}


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("kind", [".json", ".jsonl", ".ndjson"])
def test_compressed_files_hold_the_same_rows(
    make_config: MakeConfig, tmp_path: Path, kind: str, compression: str
):
    path = tmp_path / f"rows{kind}{compression}"
    path.write_bytes(COMPRESS[compression](LIST if kind == ".json" else LINES))
    config = make_config(input=path)
    assert preprocess(config)["num_prompts"] == 600
    assert [prompt.ground_truth for prompt in load_prompts(config.output)] == [row["answer"] for row in ROWS]


def test_a_json_file_may_hold_an_object_a_line(make_config: MakeConfig, tmp_path: Path):
    (tmp_path / "lines.json").write_bytes(b"\xef\xbb\xbf" + LINES)
    assert preprocess(make_config(input=tmp_path / "lines.json"))["num_prompts"] == 600


def test_rows_that_are_lists_are_read_by_position(make_config: MakeConfig, tmp_path: Path):
    rows = [
        [{"from": "human", "value": f"q{i}"}, {"from": "assistant", "ground_truth": {"value": i}}]
        for i in (3, 4)
    ]
    (tmp_path / "orz.json").write_text(json.dumps(rows))
    config = make_config(
        input=tmp_path / "orz.json", map_keys={"prompt": "0.value", "response": "1.ground_truth.value"}
    )
    preprocess(config)
    assert [(p.prompt, p.ground_truth) for p in load_prompts(config.output)] == [("q3", "3"), ("q4", "4")]


def test_nested_parquet_columns_are_reached_by_paths(make_config: MakeConfig, tmp_path: Path):
    rows = [{"prompt": [{"role": "user", "content": "q"}], "reward_model": {"ground_truth": "7"}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "raw.parquet")
    config = make_config(
        input=tmp_path / "raw.parquet",
        map_keys={"prompt": "prompt", "response": "label|reward_model.ground_truth"},
        dataset_additional_keys=["reward_model.ground_truth"],
    )
    preprocess(config)
    prompt = load_prompts(config.output)[0]
    assert (prompt.prompt, prompt.ground_truth) == ("q", "7")
    assert prompt.extra == {"reward_model.ground_truth": "7"}


@pytest.mark.parametrize(
    ("name", "opening", "joint", "closing", "unit"),
    [("broken.json", b"[", b",\n", b"]", "row"), ("broken.jsonl", b"", b"\n", b"\n", "line")],
)
def test_broken_rows_are_counted_and_named(
    make_config: MakeConfig,
    tmp_path: Path,
    name: str,
    opening: bytes,
    joint: bytes,
    closing: bytes,
    unit: str,
):
    good = json.dumps(ROWS[0]).encode()
    broken = [
        b'{"question": "q", "answer": "\xff"}',
        b'{"question": "q\\ud83d", "answer": "1"}',
        b'{"question": q, "answer": "1"}',
        b'{"question": "q", "answer": null}',
        b'{"question": "", "answer": "1"}',
        b'{"question": "q", "answer": "' + b"x" * 10_000_000 + b'"}',
        b'{"question": "q", "answer": {"deep": 1}}',
        b"7",
    ]
    (tmp_path / name).write_bytes(opening + joint.join([good, *broken, good]) + closing)
    config = make_config(input=tmp_path / name, map_keys={"prompt": "question", "response": "answer"})
    facts = preprocess(config)
    assert dropped(facts) == {
        "bad_text": 2, "bad_json": 1, "no_answer": 1, "empty_prompt": 1, "too_large": 1, "bad_row": 2
    }  # fmt: skip
    assert facts["num_prompts"] == 2
    example = facts["dropped_examples"]["no_answer"][0]
    assert (example["row"], example["where"]) == (4, f"{name} {unit} 5")
    assert example["starts"] == '{"question": "q", "answer": null}'
    assert facts_path(config.output).stat().st_size < 4000


def test_broken_text_in_parquet_costs_its_row_only(make_config: MakeConfig, tmp_path: Path):
    questions = pa.array([b"one", b"\xff\xfe", b"three"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"question": questions, "answer": ["1", "2", "3"]}), tmp_path / "raw.parquet")
    keys = {"prompt": "question", "response": "answer"}
    facts = preprocess(make_config(input=tmp_path / "raw.parquet", map_keys=keys))
    assert (dropped(facts), facts["num_prompts"]) == ({"bad_text": 1}, 2)
    assert facts["dropped_examples"]["bad_text"][0]["where"] == "raw.parquet row 2"


def test_only_the_first_examples_of_a_reason_are_kept(make_config: MakeConfig):
    rows = [{**ROWS[0], "answer": None if i % 2 else "1"} for i in range(900)]
    facts = preprocess(make_config(rows))
    assert [each["row"] for each in facts["dropped_examples"]["no_answer"]] == [1, 3, 5]


def test_a_bad_row_is_fatal_where_the_policy_says_so(make_config: MakeConfig):
    rows = [ROWS[0], {**ROWS[1], "question": "x" * 100}, {**ROWS[2], "answer": None}]
    config = make_config(rows, on_bad_row="error")
    with pytest.raises(
        RequestError, match=r"raw.jsonl line 3 has no answer.*on_bad_row=error.*on_bad_row=drop"
    ):
        preprocess(config)
    assert not config.output.parent.exists()
    assert dropped(preprocess(make_config(rows[:2], on_bad_row="error"))) == {"too_long": 1}


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
def test_a_compressed_file_that_is_cut_off_is_refused_as_a_whole(
    make_config: MakeConfig, tmp_path: Path, compression: str
):
    noise = random.Random(0)
    rows = [{"question": f"{noise.random()}", "answer": "1", "system": ""} for _ in range(20_000)]
    data = COMPRESS[compression]("".join(json.dumps(row) + "\n" for row in rows).encode())
    path = tmp_path / f"raw.jsonl{compression}"
    path.write_bytes(data[: len(data) * 2 // 3])
    config = make_config(input=path)
    with pytest.raises(RequestError, match=r"can't be read as jsonl in .*fetch the file again"):
        preprocess(config)
    assert not config.output.parent.exists()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("raw.json", LIST[:-20], "ends inside the list, in item 600"),
        ("raw.json", LIST + b"{}", "text stands outside the list"),
        ("raw.json", b'{"question": [1, 2]\n}', "expected a list of objects, or one object a line"),
        ("raw.json", b"<html>", "expected a list of objects"),
        ("raw.parquet", b"PAR1 and no more", "can't be read as parquet"),
        ("raw.jsonl.gz", LINES, "can't be read as jsonl in gz"),
        ("raw.parquet.gz", b"", "decompress it first"),
        ("raw.csv", b"", "can't read this kind of file"),
    ],
)
def test_a_damaged_file_is_refused(
    make_config: MakeConfig, tmp_path: Path, name: str, content: bytes, told: str
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=told):
        preprocess(make_config(input=tmp_path / name))


def test_a_folder_of_folders_names_them(tmp_path: Path):
    (tmp_path / "train").mkdir()
    with pytest.raises(RequestError, match="it has the folders train: name one of them"):
        find_files(str(tmp_path))


def test_a_misnamed_column_is_told_before_the_whole_file_is_read(make_config: MakeConfig, tmp_path: Path):
    path = tmp_path / "raw.jsonl.gz"
    path.write_bytes(gzip.compress(LINES * 200)[:-1])  # its damage, at the end, is never reached
    with pytest.raises(RequestError, match="no column problem; it has question, answer, system"):
        preprocess(make_config(input=path, map_keys={"prompt": "problem", "response": "answer"}))


def test_chunks_end_by_size_too(tmp_path: Path):
    row = json.dumps({"question": "x" * (CHUNK_BYTES // 4), "answer": "1"})
    (tmp_path / "raw.jsonl").write_text(f"{row}\n" * 9)
    chunks = list(read_chunks(find_files(str(tmp_path)), CHUNK_BYTES))
    assert [(chunk.first, len(chunk.rows)) for chunk in chunks] == [(0, 4), (4, 4), (8, 1)]


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
def test_reading_takes_no_more_memory_than_a_few_chunks(tmp_path: Path, kind: str):
    """The file is much larger than what may be held of it; parquet's rows are one row group."""
    row = {"question": "q", "answer": "x" * 16_000}
    path = tmp_path / f"large.{kind}"
    if kind == "parquet":
        table = pa.Table.from_pylist([row] * 6000)
        pq.write_table(table, path, row_group_size=10_000, use_dictionary=False, compression="none")
        del table
    else:
        line = json.dumps(row)
        opening, joint, closing = ("[", ",\n", "]") if kind == "json" else ("", "\n", "\n")
        path.write_text(opening + joint.join([line] * 6000) + closing)
    before, peak, rows = pa.total_allocated_bytes(), 0, 0
    tracemalloc.start()
    try:
        for chunk in read_chunks(find_files(str(path)), CHUNK_BYTES):
            rows += len(chunk.rows)
            peak = max(peak, pa.total_allocated_bytes() - before)
        peak += tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows == 6000
    assert path.stat().st_size > 90 << 20
    assert peak < 30 << 20


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(['"', "\\", "}]{[,", "\\\\"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(
    items=st.lists(JSON, max_size=6),
    window=st.integers(1, 40),
    ascii_only=st.booleans(),
    indent=st.none() | st.just(1),
)
def test_a_list_is_cut_into_its_items_wherever_the_pieces_end(
    items: list[Any], window: int, ascii_only: bool, indent: int | None
):
    text = json.dumps(items, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "WINDOW_BYTES", window)
        rows = list(list_items(io.BufferedReader(io.BytesIO(text)), limit=1 << 20))
    assert [json.loads(row.content.decode("utf-8", "surrogatepass")) for row in rows] == items
    assert [row.position for row in rows] == list(range(1, len(items) + 1))


@pytest.mark.parametrize("text", [b"[1, 2", b'["a\\', b"[1]]", b"[1] 2", b'[{"a": "b]'])
def test_what_is_no_whole_list_is_refused(text: bytes):
    with pytest.raises(BrokenFile):
        list(list_items(io.BufferedReader(io.BytesIO(text)), limit=100))
