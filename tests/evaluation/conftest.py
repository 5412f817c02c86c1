"""Two tiny models with random weights, and a data set whose truths are the first one's own greedy answers."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from mindrl.data.fingerprint import tokenizer_hash
from mindrl.data.prompt_file import write_prompt_file

EXAMPLES = Path(__file__).parents[2] / "examples" / "data"
NUM_PROMPTS = 6
RESPONSE_LENGTH = 4


@dataclass(frozen=True)
class Scene:
    first: Path
    second: Path
    dataset: Path
    truths: list[str]


def save_model(directory: Path, seed: int) -> None:
    spec = importlib.util.spec_from_file_location("make_tiny_model", EXAMPLES / "make_tiny_model.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    torch.manual_seed(seed)
    tokenizer = example.make_tokenizer()
    model = example.make_model(tokenizer)
    for parameter in model.parameters():
        parameter.data.mul_(3.0)  # otherwise it repeats its input, whatever the seed
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def greedy_answers(model_dir: Path, prompts: list[list[int]]) -> list[list[int]]:
    """What transformers itself answers, one prompt at a time."""
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    outputs = [
        model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=RESPONSE_LENGTH)[0]
        for prompt in prompts
    ]
    return [out[len(prompt) :].tolist() for out, prompt in zip(outputs, prompts, strict=True)]


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("evaluation")
    first, second = root / "first", root / "second"
    save_model(first, seed=0)
    save_model(second, seed=1)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(first)
    texts = [f"sort {number}: " for number in range(1000, 1000 + NUM_PROMPTS)]
    ids = [tokenizer.encode(text) for text in texts]
    truths = [tokenizer.decode(answer, skip_special_tokens=True) for answer in greedy_answers(first, ids)]
    rows = [
        {
            "schema_version": 1,
            "uid": f"u-{index}",
            "prompt": text,
            "prompt_token_ids": prompt_ids,
            "ground_truth": truth,
            "data_source": "even" if index % 2 == 0 else "odd",
            "extra": "{}",
            "images": [],
        }
        for index, (text, prompt_ids, truth) in enumerate(zip(texts, ids, truths, strict=True))
    ]
    facts = {
        "schema_version": 1,
        "num_prompts": len(rows),
        "tokenizer": str(first),
        "tokenizer_hash": tokenizer_hash(first),
    }
    write_prompt_file(root / "prompts.parquet", rows, facts)
    return Scene(first, second, root / "prompts.parquet", truths)
