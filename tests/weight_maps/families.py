"""Tiny models of every family, as files, for the tests of this room."""

import json
from pathlib import Path
from typing import Any

from mindrl.weight_maps import Architecture, WeightMap, architecture_of, weight_map
from tests.checkpoint.hf_models import Tensors, tensors_of, write_model

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


class Model:
    """A model on disk, and its map."""

    def __init__(self, directory: Path, name: str, tied: bool) -> None:
        settings = MODELS[name]
        write_model(directory, tied=tied, **settings)
        self.config: dict[str, Any] = json.loads((directory / "config.json").read_text())
        self.architecture: Architecture = architecture_of(self.config)
        self.map: WeightMap = weight_map(self.architecture, mtp="mtp" in settings)
        self.tensors: Tensors = tensors_of(directory)
