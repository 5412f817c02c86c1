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


QUESTION = "What is $1+1$?\nPut it in \\boxed{}. 日本"


@pytest.mark.parametrize(
    ("directory", "name", "system", "options"),
    [
        ("qwen2_5", "qwen", "Be brief.", {}),
        ("qwen2_5", "qwen25", "", {}),
        ("qwen2_5", "qwen25", "Be brief.", {}),
        ("qwen3", "qwen3", "", {}),
        ("qwen3", "qwen3", "Be brief.", {}),
        ("qwen3", "qwen3_no_think", "", {"enable_thinking": False}),
        ("qwen3", "qwen3_no_think", "Be brief.", {"enable_thinking": False}),
    ],
)
def test_text_and_ids_equal_those_of_the_models_own_template(
    tokenizers: Path, directory: str, name: str, system: str, options: dict[str, bool]
):
    tokenizer = AutoTokenizer.from_pretrained(tokenizers / directory)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": QUESTION})
    own = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
    own_ids = tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=False, **options
    )
    text = load_template(name, shipped_templates()).render(QUESTION, system)
    assert text == own
    assert tokenizer.encode(text, add_special_tokens=False) == own_ids


@pytest.mark.parametrize(
    ("name", "system", "text"),
    [
        ("chatml", "", "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"),
        (
            "smollm2",
            "",
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "llama3",
            "s",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\ns<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("deepseek3", "s", "<｜begin▁of▁sentence｜>s<｜User｜>q<｜Assistant｜>"),
        ("deepseek_r1", "", "<｜begin▁of▁sentence｜><｜User｜>q<｜Assistant｜><think>\n"),
        (
            "moonlight",
            "",
            "<|im_system|>system<|im_middle|>You are a helpful assistant<|im_end|><|im_user|>user<|im_middle|>q"
            "<|im_end|><|im_assistant|>assistant<|im_middle|>",
        ),
    ],
)
def test_templates_of_other_families_give_the_published_text(name: str, system: str, text: str):
    assert load_template(name, shipped_templates()).render("q", system) == text


@pytest.mark.parametrize("name", ["r1_zero", "qwen_r1", "qwen_math_r1", "deepseek3_r1"])
def test_templates_for_reasoning_ask_for_a_box_without_a_system_message(name: str):
    assert "within \\boxed{}." in load_template(name, shipped_templates()).render("q", "")


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
