"""Templates: the text around a question."""

import json
import os
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from mindrl.data.templates import load_template, shipped_templates
from mindrl.errors import RequestError

NAMES = tuple(json.loads(shipped_templates().read_text(encoding="utf-8")))


@pytest.fixture
def tokenizers() -> Path:
    if "MINDRL_TEST_DATA" not in os.environ:
        pytest.skip("MINDRL_TEST_DATA names no folder with real tokenizers")
    return Path(os.environ["MINDRL_TEST_DATA"]) / "tokenizers"


@pytest.mark.parametrize("name", NAMES)
def test_question_and_system_message_occur_once_and_as_they_are(name: str):
    template = load_template(name, shipped_templates())
    text = template.render(r"solve {system} \boxed{}", "be {prompt}" if template.system else "")
    assert text.count(r"solve {system} \boxed{}") == 1
    assert text.count("be {prompt}") == bool(template.system)


def test_the_established_names_are_there():
    assert {"empty", "default", "qwen", "qwen_r1", "qwen_math_r1", "qwen3", "llama3", "deepseek3"} <= set(
        NAMES
    )


def test_without_a_system_message_its_part_is_left_out():
    assert load_template("qwen3", shipped_templates()).render("q", "") == (
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("directory", "name", "system", "options"),
    [
        ("qwen2_5", "qwen", "Be brief.", {}),
        ("qwen3", "qwen3", "", {}),
        ("qwen3", "qwen3", "Be brief.", {}),
        ("qwen3", "qwen3_no_think", "Be brief.", {"enable_thinking": False}),
    ],
)
def test_templates_equal_the_models_own(
    tokenizers: Path, directory: str, name: str, system: str, options: dict[str, bool]
):
    tokenizer = AutoTokenizer.from_pretrained(tokenizers / directory)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": "What is 1+1?"})
    own = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
    assert load_template(name, shipped_templates()).render("What is 1+1?", system) == own


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "Invalid JSON"),
        ('{"mine": {"user": "no place"}}', "must hold {prompt}"),
        ('{"mine": {"user": "{prompt}", "default_system": "x"}}', "has no effect without `system`"),
        ('{"mine": {"user": "{prompt}", "asistant": "x"}}', "mine.asistant"),
    ],
)
def test_a_broken_templates_file_is_refused(tmp_path: Path, content: str, told: str):
    path = tmp_path / "templates.json"
    path.write_text(content)
    with pytest.raises(RequestError, match=told):
        load_template("mine", path)
