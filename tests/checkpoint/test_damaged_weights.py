"""Damaged weights and config files: refused with exit code 2, and nothing is written."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hf_models import write_model

from mindrl.cli.main import main

INDEX = "model.safetensors.index.json"


def change_header(model: Path, change: Callable[[dict[str, Any], str], Any]) -> None:
    """Rewrite the header after `change(header, name of the second tensor)`; what it returns, if anything, replaces it."""
    path = model / "model.safetensors"
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    second = sorted(header, key=lambda name: header[name]["data_offsets"])[1]
    text = json.dumps(change(header, second) or header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def move_to_the_start(header: dict[str, Any], name: str) -> None:
    start, end = header[name]["data_offsets"]
    header[name]["data_offsets"] = [0, end - start]


def set_config(key: str, value: Any) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, key: value}))

    return change


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda m: change_header(m, lambda header, name: [1]), "no object"),
        (lambda m: change_header(m, lambda header, name: header[name].pop("shape") and None), "KeyError"),
        (
            lambda m: change_header(m, move_to_the_start),
            "damaged",
        ),  # would be read as another tensor's values
        (lambda m: (m / INDEX).write_text("{"), "not valid JSON"),
        (lambda m: (m / INDEX).write_text("{}"), "no weight_map"),
        (lambda m: (m / "config.json").write_bytes(b"\xff"), "not valid JSON"),
        (set_config("model_type", []), "model_type"),
        (set_config("rms_norm_eps", "x"), "rms_norm_eps is 'x'"),
        (set_config("rope_parameters", [1]), "expected an object"),
        (set_config("layer_types", 3), "expected a list"),
        (set_config("tie_word_embeddings", "false"), "expected true or false"),
    ],
)
def test_a_damaged_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], told: str
):
    model = write_model(tmp_path / "model", "qwen2", tied=True)
    damage(model)
    flags = ("--load-model-type", "hf", "--save-model-type", "mg")
    assert main(["convert", *flags, "--load-dir", str(model), "--save-dir", str(tmp_path / "new")]) == 2
    assert told in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["model/config.json/below", "a" * 300, "null\0byte"])
def test_a_place_that_can_not_be_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str):
    model = write_model(tmp_path / "model", "qwen2", tied=True)
    flags = ("--load-model-type", "hf", "--save-model-type", "mg")
    assert main(["convert", *flags, "--load-dir", str(model), "--save-dir", f"{tmp_path}/{name}"]) == 2
    assert "--save-dir" in capsys.readouterr().err


@pytest.mark.parametrize("tracker", [b"\xff", "²".encode(), b"9" * 5000])
def test_a_tracker_that_names_no_iteration_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tracker: bytes
):
    (tmp_path / "latest_checkpointed_iteration.txt").write_bytes(tracker)
    flags = ("--load-model-type", "mg", "--save-model-type", "hf")
    assert main(["convert", *flags, "--load-dir", str(tmp_path), "--save-dir", str(tmp_path / "new")]) == 2
    assert "expected 'release' or a number" in capsys.readouterr().err
