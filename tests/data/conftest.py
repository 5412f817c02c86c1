"""A tiny tokenizer on disk, and a function that preprocesses rows with it."""

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mindrl.data.preprocess import preprocess
from mindrl.data.preprocess_config import PreprocessConfig

ROOT = Path(__file__).parents[2]


def load_example(name: str) -> ModuleType:
    """A script in examples/data, imported."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / "data" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quick start's tokenizer: one id a byte."""
    directory = tmp_path_factory.mktemp("tokenizer")
    load_example("make_tiny_model").make_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture
def make_config(tmp_path: Path, tokenizer_dir: Path) -> Callable[..., PreprocessConfig]:
    """A configuration with the input `tmp_path/raw.jsonl`, which the given rows are written to."""

    def make(rows: Sequence[Any] = (), **changes: Any) -> PreprocessConfig:
        raw = tmp_path / "raw.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        raw.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        values: Mapping[str, Any] = {
            "input": raw,
            "output_prefix": tmp_path / "out" / "set",
            "tokenizer_name_or_path": tokenizer_dir,
            "prompt_type": "empty",
            "seq_length": 64,
            "map_keys": {"prompt": "question", "response": "answer", "system": "system"},
            **changes,
        }
        return PreprocessConfig.model_validate(values)

    return make


@pytest.fixture
def dataset(make_config: Callable[..., PreprocessConfig]) -> Path:
    """A preprocessed file of seven prompts."""
    config = make_config([{"question": f"question {i}", "answer": str(i), "system": ""} for i in range(7)])
    preprocess(config)
    return config.output
