"""Preprocessing real data with real tokenizers (MINDRL_TEST_DATA)."""

import os
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from mindrl.config.loading import load_section
from mindrl.data.preprocess import preprocess
from mindrl.data.preprocess_config import PreprocessConfig
from mindrl.data.prompts import load_prompts

ROOT = Path(__file__).parents[2]


def test_gsm8k_becomes_prompts_of_a_chat_model(tmp_path: Path):
    if "MINDRL_TEST_DATA" not in os.environ:
        pytest.skip("MINDRL_TEST_DATA names no folder with GSM8K and real tokenizers")
    folder = Path(os.environ["MINDRL_TEST_DATA"])
    tokenizer_dir = folder / "tokenizers" / "qwen2_5"
    overrides = [
        f"input={folder}/data/gsm8k/test.jsonl",
        f"output_prefix={tmp_path}/gsm8k_test",
        f"tokenizer_name_or_path={tokenizer_dir}",
        "workers=1",
    ]
    config = load_section(PreprocessConfig, ROOT / "configs" / "datasets" / "gsm8k.yaml", overrides)
    facts = preprocess(config)
    assert facts["num_prompts"] == 1319
    first = load_prompts(config.output)[0]
    assert first.ground_truth == "18"
    assert first.prompt.endswith("within \\boxed{}.<|im_end|>\n<|im_start|>assistant\n")
    start = AutoTokenizer.from_pretrained(tokenizer_dir).convert_tokens_to_ids("<|im_start|>")
    assert first.prompt_token_ids.tolist().count(start) == 3
