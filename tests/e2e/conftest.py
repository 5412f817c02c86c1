"""Short real runs: real model files, real Ray, real Megatron, real vLLM, through the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "configs" / "grpo_quickstart.yaml"
RUN_SECONDS = 300
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Files:
    """What a run starts from."""

    tied: Path
    untied: Path
    checkpoint: Path
    """The tied model, converted."""
    prompts: Path

    def overrides(self, model: Path) -> list[str]:
        """Overrides of the quick start's configuration that make it use these files."""
        return [
            f"model.path={model}",
            f"model.checkpoint={self.checkpoint if model == self.tied else 'null'}",
            f"data.train=[{{path: {self.prompts}}}]",
            "data.eval=[]",
            "trainer.eval_interval=0",
            "cluster.worker_timeout_seconds=120",
        ]


def run_python(*arguments: object, timeout: float = RUN_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run this interpreter in the checkout."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout, check=False
    )


def succeed(*arguments: object) -> None:
    """Run this interpreter in the checkout, and fail with its output where it fails."""
    done = run_python(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


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
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(tied)
    config.tie_word_embeddings = False
    AutoModelForCausalLM.from_config(config).float().save_pretrained(untied)
    AutoTokenizer.from_pretrained(tied).save_pretrained(untied)


Metrics = list[dict[str, Any]]
Train = Callable[..., Metrics]


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
