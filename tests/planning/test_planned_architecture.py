"""Where the architecture comes from that a configuration plans for."""

import json
from pathlib import Path

import pytest

from mindrl.config import load
from mindrl.errors import RequestError
from mindrl.planning import planned_architecture
from tests.config.config_files import minimal_yaml

SHIPPED = Path(__file__).resolve().parents[2] / "configs/model"


def model_in(folder: Path, name: str, **changes) -> Path:
    config = json.loads((SHIPPED / name / "config.json").read_text())
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_the_models_own_config_comes_first(tmp_path: Path):
    path = model_in(tmp_path / "model", "qwen3-8b")
    config = load(minimal_yaml(tmp_path), [f"model.path={path}"])
    assert planned_architecture(config).family == "qwen3"


@pytest.mark.parametrize("form", ["qwen2.5-7b", "qwen2.5-7b/config.json"])
def test_without_the_model_an_architecture_file_or_its_folder_serves(tmp_path: Path, form: str):
    config = load(minimal_yaml(tmp_path), ["model.path=no/model", f"model.architecture={SHIPPED / form}"])
    assert planned_architecture(config).hidden_size == 3584


def test_shipped_configs_are_found_from_any_working_directory(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load(minimal_yaml(tmp_path), ["model.architecture=configs/model/qwen3-30b-a3b"])
    assert planned_architecture(config).experts.num_experts == 128


def test_both_must_have_the_same_shape_and_the_models_own_counts(tmp_path: Path):
    path = model_in(tmp_path / "model", "qwen3-8b", torch_dtype="float32", max_position_embeddings=32768)
    same = load(minimal_yaml(tmp_path), [f"model.path={path}", f"model.architecture={SHIPPED}/qwen3-8b"])
    assert planned_architecture(same).dtype == "float32"
    assert planned_architecture(same).max_position_embeddings == 32768
    other = load(minimal_yaml(tmp_path), [f"model.path={path}", f"model.architecture={SHIPPED}/qwen2.5-7b"])
    with pytest.raises(
        RequestError, match=r"model.architecture: .*another model.*num_layers 28 instead of 36"
    ):
        planned_architecture(other)


def test_a_model_that_is_nowhere_is_answered_with_what_to_set(tmp_path: Path):
    with pytest.raises(RequestError, match=r"model.path: .*set model.architecture .*configs/model/qwen3-8b"):
        planned_architecture(load(minimal_yaml(tmp_path), ["model.path=no/model"]))
    with pytest.raises(RequestError, match=r"model.architecture: nowhere is neither a config.json nor"):
        planned_architecture(
            load(minimal_yaml(tmp_path), ["model.path=no/model", "model.architecture=nowhere"])
        )
