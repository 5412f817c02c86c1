"""Qwen2 and Qwen2.5: Llama's tensors with a bias on query, key and value."""

from collections.abc import Mapping
from typing import Any

from mindrl.weight_maps import dense
from mindrl.weight_maps.architecture import Architecture
from mindrl.weight_maps.config_json import dense_architecture

MODEL_TYPE = "qwen2"
TITLE = "Qwen2, Qwen2.5"
LAYER = (dense.input_norm, dense.attention, dense.mlp_norm, dense.gated_mlp)


def architecture(config: Mapping[str, Any]) -> Architecture:
    return dense_architecture(config, family=MODEL_TYPE, qkv_bias=True, qk_norm=False)
