"""Short real runs: real model files, real Ray, real Megatron, real vLLM, through the command line."""

import json
from pathlib import Path

import pytest
from real_runs import QUICKSTART, Files, Metrics, Train, run_python, succeed
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The quick start's data and model, hardly warmed up, and the same model with an output layer of its own."""
    directory = tmp_path_factory.mktemp("run_files")
    data, tied, untied = directory / "data", directory / "tied", directory / "untied"
    succeed("examples/data/make_sort_digits.py", "--output-dir", data)
    succeed(
        "examples/data/make_tiny_model.py", "--data", data / "train.jsonl", "--output-dir", tied,
        "--stop-reward", 0, "--max-steps", 1,
    )  # fmt: skip
    _untie(tied, untied)
    succeed(
        "-m", "mindrl", "preprocess", "configs/datasets/sort_digits.yaml", f"input={data / 'train.jsonl'}",
        f"output_prefix={data / 'train'}", f"tokenizer_name_or_path={tied}",
    )  # fmt: skip
    succeed(
        "-m", "mindrl", "convert", "--load-model-type", "hf", "--save-model-type", "mg",
        "--load-dir", tied, "--save-dir", directory / "mcore",
    )  # fmt: skip
    return Files(tied, untied, directory / "mcore", data / "train.parquet")


def _untie(tied: Path, untied: Path) -> None:
    config = AutoConfig.from_pretrained(tied)
    config.tie_word_embeddings = False
    AutoModelForCausalLM.from_config(config).float().save_pretrained(untied)
    AutoTokenizer.from_pretrained(tied).save_pretrained(untied)


@pytest.fixture
def train(files: Files, tmp_path: Path) -> Train:
    """`train(*overrides, model=...)` runs GRPO with two workers for three steps and returns metrics.jsonl."""

    def run(*overrides: str, model: Path | None = None, name: str = "run") -> Metrics:
        output = tmp_path / name
        done = run_python(
            "-m", "mindrl", "train", QUICKSTART, *files.overrides(model or files.tied), "trainer.total_steps=3",
            f"trainer.output_dir={output}", *overrides,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]

    return run
