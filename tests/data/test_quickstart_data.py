"""The quick start's data set and model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "data"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=500, check=False
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sort_digits")
    done = run(sys.executable, EXAMPLES / "make_sort_digits.py", "--output-dir", directory)
    assert done.returncode == 0, done.stderr
    return directory


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_no_prompt_occurs_twice_within_or_across_the_two_files(data: Path):
    train, heldout = rows(data / "train.jsonl"), rows(data / "heldout.jsonl")
    assert (len(train), len(heldout)) == (4096, 512)
    assert len({row["prompt"] for row in train + heldout}) == 4096 + 512


def test_every_answer_is_the_sorted_question(data: Path):
    for row in rows(data / "heldout.jsonl"):
        digits = row["prompt"].removeprefix("sort ").removesuffix(": ")
        assert row["answer"] == "".join(sorted(digits))
        assert len(set(digits)) == len(digits) == 4


def test_the_seed_decides_the_files(data: Path, tmp_path: Path):
    for name, seed, same in (("again", "0", True), ("other", "1", False)):
        run(sys.executable, EXAMPLES / "make_sort_digits.py", "--output-dir", tmp_path / name, "--seed", seed)
        files = ((data / "train.jsonl").read_text(), (tmp_path / name / "train.jsonl").read_text())
        assert (files[0] == files[1]) == same


def test_more_prompts_than_there_are_is_refused(tmp_path: Path):
    done = run(
        sys.executable, EXAMPLES / "make_sort_digits.py", "--output-dir", tmp_path / "x", "--train", "5000"
    )
    assert done.returncode == 2
    assert "only 5040 prompts" in done.stderr
    assert not (tmp_path / "x").exists()


def test_the_tiny_model_is_an_ordinary_hugging_face_directory(data: Path, tmp_path: Path):
    output = tmp_path / "model"
    command = (
        sys.executable,
        EXAMPLES / "make_tiny_model.py",
        "--data",
        data / "train.jsonl",
        "--output-dir",
        output,
    )
    made = run(*command, "--stop-reward", "0")  # stops at the first look
    assert made.returncode == 0, made.stderr
    tokenizer = AutoTokenizer.from_pretrained(output)
    model = AutoModelForCausalLM.from_pretrained(output)
    assert 500_000 < model.num_parameters() < 700_000
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.decode(tokenizer.encode("sort 3041: é\n")) == "sort 3041: é\n"
    assert len(tokenizer.encode("sort 3041: ")) == 11
    assert model.config.eos_token_id == tokenizer.eos_token_id

    again = run(*command)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr


def test_the_shell_script_names_the_data_sets_there_are():
    done = run("bash", EXAMPLES / "preprocess_data.sh", "sort_digit")
    assert done.returncode == 2
    assert "sort_digits sort_digits_heldout" in done.stderr
    for name in ("aime", "dapo_math_17k", "deepscaler", "gsm8k", "math500", "math_lighteval", "orz"):
        assert f" {name}" in done.stderr
    assert " _math" not in done.stderr


def test_the_shell_script_hands_on_what_it_is_given(tmp_path: Path):
    done = run(
        "bash",
        EXAMPLES / "preprocess_data.sh",
        "sort_digits",
        f"input={tmp_path}/nowhere.jsonl",
        f"output_prefix={tmp_path}/x",
    )
    assert done.returncode == 2
    assert "nowhere.jsonl: no such file" in done.stderr


def test_the_shell_script_takes_input_and_output_from_the_environment(tmp_path: Path):
    done = subprocess.run(
        ["bash", EXAMPLES / "preprocess_data.sh", "aime", f"output_prefix={tmp_path}/wins"],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env={**os.environ, "DATA": f"{tmp_path}/nowhere.json", "OUTPUT": "/proc/nowhere", "TOKENIZER": "/x"},
    )
    assert done.returncode == 2
    assert "nowhere.json: no such file" in done.stderr
