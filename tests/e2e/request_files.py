"""A small, complete set of what commands start from: raw rows, a model, its checkpoint, prompts, configurations.

Every request of `bad_requests` is one mistake away from this.
"""

import json
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from mindrl.cli.main import main

RUN = """\
model: {path: model}
data:
  train: [{path: prompts.parquet}]
  max_prompt_length: 16
  max_response_length: 8
actor:
  micro_batch_size: 4
  mini_batch_size: 4
  optimizer: {lr: 1.0e-3}
rollout: {engine: hf, n_samples: 4}
reward: {functions: [{name: exact_match}]}
cluster: {devices_per_node: 2}
trainer: {global_batch_size: 4, total_steps: 3, output_dir: run}
"""

DATA = """\
input: rows.jsonl
output_prefix: new/prompts
tokenizer_name_or_path: model
prompt_type: empty
seq_length: 16
map_keys: {prompt: question, response: answer}
"""

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def write_files(place: Path) -> None:
    """Fill the working directory: rows.jsonl, data.yaml, model/, mcore/, prompts.parquet, run.yaml."""
    rows = [{"question": f"{number}+1=", "answer": str(number + 1)} for number in range(8)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "data.yaml").write_text(DATA)
    (place / "run.yaml").write_text(RUN)
    write_model(place / "model")
    assert main(["preprocess", "data.yaml", "output_prefix=prompts"]) == 0
    assert main([*CONVERT, "--load-dir", "model", "--save-dir", "mcore"]) == 0


CONVERT = ("convert", "--load-model-type", "hf", "--save-model-type", "mg")


def write_model(directory: Path, **sizes: int) -> None:
    """A random Qwen2 whose tokenizer has one token a byte, plus `<pad>` and `<eos>`."""
    tokens = ["<pad>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[],
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token=None,
    )
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokens), eos_token_id=1, pad_token_id=0, bos_token_id=None, tie_word_embeddings=True,
        **(SIZES | sizes),
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
