"""`mindrl preprocess`: what becomes of rows, and which requests are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from mindrl.cli.main import main
from mindrl.data.preprocess import preprocess
from mindrl.data.preprocess_config import PreprocessConfig
from mindrl.data.prompt_file import SCHEMA, facts_path
from mindrl.data.prompts import load_prompts
from mindrl.data.raw_files import CHUNK_ROWS
from mindrl.errors import RequestError

MakeConfig = Callable[..., PreprocessConfig]
ROOT = Path(__file__).parents[2]


def question(text: str, answer: Any = "1", **more: Any) -> dict[str, Any]:
    return {"question": text, "answer": answer, "system": "", **more}


def test_each_row_becomes_the_ids_of_its_template_text(make_config: MakeConfig, tokenizer_dir: Path):
    config = make_config([question("a b"), question("é 日", " 2 ")], prompt_type="default")
    preprocess(config)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    first, second = load_prompts(config.output)
    assert (first.prompt, second.prompt) == ("Human: a b\nAssistant: ", "Human: é 日\nAssistant: ")
    assert second.ground_truth == "2"
    assert [tokenizer.decode(p.prompt_token_ids.tolist()) for p in (first, second)] == [
        first.prompt,
        second.prompt,
    ]
    assert (first.uid, first.data_source) == ("set-0000000", "set")


def test_every_dropped_row_is_counted_under_its_reason(make_config: MakeConfig):
    rows = [
        question("kept"),
        question("x" * 65),
        question("  "),
        question("no answer", None),
        question("no answer", " "),
        {"question": "column missing"},
        question(["a", "list"]),
        "{ this is not json",
        "[1, 2]",
    ]
    config = make_config(rows)
    facts = preprocess(config)
    assert {reason: count for reason, count in facts["dropped"].items() if count} == {
        "bad_json": 1,
        "bad_row": 3,
        "empty_prompt": 1,
        "no_answer": 2,
        "too_long": 1,
    }
    assert (facts["num_rows"], facts["num_prompts"]) == (9, 1)
    assert json.loads(facts_path(config.output).read_text()) == facts


def test_a_prompt_of_exactly_seq_length_tokens_is_kept(make_config: MakeConfig):
    assert preprocess(make_config([question("x" * 64)]))["prompt_length"]["max"] == 64


def test_gsm8k_answers_stand_after_four_hashes(make_config: MakeConfig):
    rows = [question("a", "so 3+4=7\n#### 1,072"), question("b", "no mark 5"), question("c", "#### ")]
    config = make_config(rows, handler_name="gsm8k")
    facts = preprocess(config)
    assert [prompt.ground_truth for prompt in load_prompts(config.output)] == ["1072"]
    assert facts["dropped"]["no_answer"] == 2


def test_query_continues_the_prompt_and_system_precedes_it(make_config: MakeConfig):
    keys = {"prompt": "question", "query": "more", "response": "answer", "system": "system"}
    rows = [{"question": "q", "more": "m", "answer": "1", "system": "s"}]
    config = make_config(rows, map_keys=keys, prompt_type="default")
    preprocess(config)
    assert load_prompts(config.output)[0].prompt == "s\nHuman: q\nm\nAssistant: "


def test_additional_columns_reach_the_reward_as_they_were(make_config: MakeConfig):
    config = make_config(
        [question("a", level=3, tags=["x", None])], dataset_additional_keys=["level", "tags"]
    )
    preprocess(config)
    assert load_prompts(config.output)[0].extra == {"level": 3, "tags": ["x", None]}


def test_workers_do_not_change_the_result(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("mindrl.data.preprocess.ALONE_CHUNKS", 1)
    rows = [question("x" * (i % 70)) for i in range(4 * CHUNK_ROWS)]
    one = make_config(rows, output_prefix=tmp_path / "one" / "set")
    two = make_config(rows, output_prefix=tmp_path / "two" / "set", workers=2)
    assert preprocess(one) == preprocess(two)
    assert pq.read_table(one.output).equals(pq.read_table(two.output))


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
def test_json_jsonl_and_parquet_hold_the_same_rows(make_config: MakeConfig, tmp_path: Path, suffix: str):
    rows = [question("a"), question("b")]
    raw = tmp_path / "raw" / f"part.{suffix}"
    raw.parent.mkdir()
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), raw)
    else:
        raw.write_text(json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows)))
    for number, source in enumerate((raw, raw.parent)):
        config = make_config(input=source, output_prefix=tmp_path / f"out{number}")
        preprocess(config)
        assert [prompt.prompt for prompt in load_prompts(config.output)] == ["a", "b"]


def test_the_parquet_columns_are_the_contract(dataset: Path):
    assert pq.read_schema(dataset).equals(SCHEMA)
    assert SCHEMA.names == [
        "schema_version", "uid", "prompt", "prompt_token_ids", "ground_truth", "data_source", "extra", "images",
    ]  # fmt: skip


def test_existing_output_is_replaced_only_on_request(make_config: MakeConfig):
    preprocess(make_config([question("first")]))
    again = make_config([question("second")])
    with pytest.raises(RequestError, match=r"exists.*--overwrite"):
        preprocess(again)
    assert load_prompts(again.output)[0].prompt == "first"
    preprocess(again, overwrite=True)
    assert load_prompts(again.output)[0].prompt == "second"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"input": Path("nowhere.jsonl")}, "no such file"),
        ({"handler_name": "gsm8"}, "did you mean gsm8k"),
        ({"prompt_type": "qwenn"}, "did you mean qwen"),
        ({"prompt_type": "qwen"}, r"<\|im_start\|> is not one in the tokenizer"),
        ({"prompt_type_path": Path("nowhere.json")}, "no such file"),
        ({"tokenizer_name_or_path": Path("nowhere")}, "no such directory"),
        (
            {"map_keys": {"prompt": "problem", "response": "answer"}},
            "no column problem; it has question, answer",
        ),
        ({"dataset_additional_keys": ["level"]}, "no column level"),
        ({"seq_length": 1}, "none of its 1 rows gave a prompt .1 too_long"),
    ],
)
def test_a_bad_request_is_answered_and_writes_nothing(
    make_config: MakeConfig, changes: dict[str, Any], told: str
):
    config = make_config([question("text")], **changes)
    with pytest.raises(RequestError, match=told):
        preprocess(config)
    assert not config.output.parent.exists()


def test_half_a_character_makes_a_bad_row(make_config: MakeConfig):
    assert preprocess(make_config([question("1"), question("\ud800")]))["dropped"]["bad_text"] == 1


def test_a_folder_in_the_place_of_the_output_is_refused_even_with_overwrite(make_config: MakeConfig):
    config = make_config([question("text")])
    config.output.mkdir(parents=True)
    with pytest.raises(RequestError, match="is a directory"):
        preprocess(config, overwrite=True)
    assert not facts_path(config.output).exists()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("tokenizer.json", '{"version": "1.0"}', "can't be read"),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json holds a list, expected an object"),
    ],
)
def test_a_damaged_tokenizer_is_refused(
    make_config: MakeConfig, tokenizer_dir: Path, tmp_path: Path, name: str, content: str, told: str
):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in tokenizer_dir.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    (damaged / name).write_text(content)
    with pytest.raises(RequestError, match=told):
        preprocess(make_config([question("text")], tokenizer_name_or_path=damaged))


def test_an_empty_data_set_is_refused(make_config: MakeConfig):
    with pytest.raises(RequestError, match="holds no rows"):
        preprocess(make_config([]))


def test_a_misspelt_key_is_answered_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    yaml = tmp_path / "set.yaml"
    yaml.write_text("promt_type: empty\n")
    assert main(["preprocess", str(yaml)]) == 2
    assert "promt_type: unknown key; did you mean prompt_type?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "datasets").glob("[!_]*.yaml")), ids=lambda p: p.stem
)
def test_every_shipped_data_set_fits_the_schema(path: Path):
    from mindrl.config.loading import load_section

    assert load_section(PreprocessConfig, path).seq_length > 0


def test_the_command_takes_overrides_and_prints_its_facts(
    make_config: MakeConfig, tmp_path: Path, tokenizer_dir: Path, capsys: pytest.CaptureFixture[str]
):
    make_config([question("a")])  # writes raw.jsonl
    shipped = ROOT / "configs" / "datasets" / "sort_digits.yaml"
    overrides = [
        f"input={tmp_path}/raw.jsonl",
        f"output_prefix={tmp_path}/cli/set",
        f"tokenizer_name_or_path={tokenizer_dir}",
        "map_keys.prompt=question",
    ]
    assert main(["preprocess", str(shipped), *overrides, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_prompts"] == 1
