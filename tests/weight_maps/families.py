"""Tiny models of every family, as files, for the tests of this room."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from mindrl.weight_maps import Architecture, WeightMap, architecture_of, weight_map
from tests.checkpoint.hf_models import FAMILIES, SIZES, Tensors, tensors_of, write_model

MODELS: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama"},
    "qwen2": {"family": "qwen2"},
    "qwen3": {"family": "qwen3"},
    "qwen3_moe": {"family": "qwen3_moe"},
    "qwen3_moe with dense layers": {"family": "qwen3_moe", "num_hidden_layers": 3, "mlp_only_layers": [1]},
    "deepseek_v3": {"family": "deepseek_v3"},
    "deepseek_v3 with experts only": {"family": "deepseek_v3", "first_k_dense_replace": 0, "mtp": 2},
    "deepseek_v3 with mtp": {"family": "deepseek_v3", "mtp": 1},
    "moonlight": {"family": "moonlight"},
}
"""What `write_model` is told. Where layers for multi-token prediction are there, the map has them."""


def architecture(name: str, *, tied: bool = False) -> Architecture:
    """Of one of `MODELS`, without writing it."""
    settings = dict(MODELS[name])
    model_type, family_settings = FAMILIES[settings.pop("family")]
    mtp = {"num_nextn_predict_layers": settings.pop("mtp", 0)}
    config = AutoConfig.for_model(
        model_type, tie_word_embeddings=tied, **SIZES | family_settings | mtp | settings
    )
    return architecture_of(config.to_dict())


def full_map(name: str, *, tied: bool = False) -> WeightMap:
    """The map of one of `MODELS`, with its layers for multi-token prediction."""
    return weight_map(architecture(name, tied=tied), mtp="mtp" in MODELS[name])


class Model:
    """A model on disk, and its map."""

    def __init__(self, directory: Path, name: str) -> None:
        self.config: dict[str, Any] = json.loads((directory / "config.json").read_text())
        self.architecture: Architecture = architecture_of(self.config)
        self.map: WeightMap = weight_map(self.architecture, mtp="mtp" in MODELS[name])
        self.tensors: Tensors = tensors_of(directory)


def write(directory: Path, name: str, *, tied: bool) -> Model:
    """Write one of `MODELS`."""
    write_model(directory, tied=tied, **MODELS[name])
    return Model(directory, name)
