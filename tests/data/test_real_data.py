"""Preprocessing the true files of public data sets with real tokenizers (MINDRL_TEST_DATA)."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from mindrl.config.loading import load_section
from mindrl.data.preprocess import preprocess
from mindrl.data.preprocess_config import PreprocessConfig
from mindrl.data.prompts import PromptDataset, load_prompts

ROOT = Path(__file__).parents[2]

Prepare = Callable[..., tuple[dict[str, Any], PromptDataset]]


@pytest.fixture
def folder() -> Path:
    if "MINDRL_TEST_DATA" not in os.environ:
        pytest.skip("MINDRL_TEST_DATA names no folder with public data sets and real tokenizers")
    return Path(os.environ["MINDRL_TEST_DATA"])


@pytest.fixture
def prepare(folder: Path, tmp_path: Path) -> Prepare:
    """Preprocess `data/<file>` by the shipped yaml of a name, with Qwen2.5's tokenizer."""

    def run(name: str, file: str, *overrides: str) -> tuple[dict[str, Any], PromptDataset]:
        values = [
            f"input={folder}/data/{file}",
            f"output_prefix={tmp_path}/{name}",
            f"tokenizer_name_or_path={folder}/tokenizers/qwen2_5",
            *overrides,
        ]
        config = load_section(PreprocessConfig, ROOT / "configs" / "datasets" / f"{name}.yaml", values)
        return preprocess(config), load_prompts(config.output)

    return run


@pytest.mark.parametrize(
    ("name", "file", "rows", "dropped", "longest"),
    [
        ("gsm8k", "gsm8k/train.jsonl", 7473, {}, 240),
        ("gsm8k", "gsm8k/test.jsonl", 1319, {}, 216),
        ("math_lighteval", "math/math500_as_lighteval.jsonl", 500, {}, 819),
        ("math500", "math/math500.jsonl", 500, {}, 819),
        ("math500", "math/train.json", 7474, {"no_answer": 4}, 1682),
        ("deepscaler", "deepscaler", 1209, {"no_answer": 1}, 842),
        ("dapo_math_17k", "dapo", 6, {}, 94),
        ("aime", "aime", 30, {}, 421),
    ],
)
def test_every_row_is_kept_or_counted(
    prepare: Prepare, name: str, file: str, rows: int, dropped: dict[str, int], longest: int
):
    facts, prompts = prepare(name, file)
    assert {reason: count for reason, count in facts["dropped"].items() if count} == dropped
    assert (facts["num_rows"], len(prompts)) == (rows, rows - sum(dropped.values()))
    assert facts["prompt_length"]["max"] == prompts.longest_prompt == longest
    assert len(facts["dropped_examples"].get("no_answer", [])) == min(3, dropped.get("no_answer", 0))


def test_gsm8k_becomes_prompts_of_a_chat_model(prepare: Prepare, folder: Path):
    _, prompts = prepare("gsm8k", "gsm8k/test.jsonl")
    first = prompts[0]
    assert first.ground_truth == "18"
    assert first.prompt.endswith("every day at the farmers' market?<|im_end|>\n<|im_start|>assistant\n")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizers" / "qwen2_5")
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert first.prompt_token_ids.tolist().count(start) == 3


def test_the_boxes_of_math_solutions_hold_the_published_answers(prepare: Prepare, folder: Path):
    _, prompts = prepare("math_lighteval", "math/math500_as_lighteval.jsonl")
    published = (folder / "data" / "math" / "math500.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line)["answer"] for line in published]
    differing = [(p.ground_truth, a) for p, a in zip(prompts, answers, strict=True) if p.ground_truth != a]
    assert differing == []


def test_dapo_prompts_are_the_bare_problems(prepare: Prepare):
    _, prompts = prepare("dapo_math_17k", "dapo", "prompt_type=empty")
    assert prompts[0].prompt == "For which $n$ is $n^4 + 6n^3 + 11n^2 + 3n + 31$ a perfect square?"
    assert not [prompt.uid for prompt in prompts if "Answer:" in prompt.prompt]


def test_aime_answers_are_written_without_leading_zeros(prepare: Prepare):
    _, prompts = prepare("aime", "aime")
    answers = [prompt.ground_truth for prompt in prompts]
    assert answers[:3] == ["204", "25", "809"]
    assert all(answer == str(int(answer)) for answer in answers)


def test_the_shell_script_prepares_a_set_from_its_environment(folder: Path, tmp_path: Path):
    done = subprocess.run(
        ["bash", ROOT / "examples" / "data" / "preprocess_data.sh", "aime", "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={
            **os.environ,
            "DATA": str(folder / "data" / "aime"),
            "TOKENIZER": str(folder / "tokenizers" / "qwen3"),
            "OUTPUT": str(tmp_path / "aime24"),
            "PROMPT_TYPE": "qwen3",
        },
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["template"] == "qwen3"
    assert load_prompts(tmp_path / "aime24.parquet")[0].data_source == "aime24"
