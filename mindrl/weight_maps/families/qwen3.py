"""Qwen3 (dense): Llama's tensors with a norm on every query and key head, whose width is a setting of its own."""

from collections.abc import Mapping
from typing import Any

from mindrl.weight_maps import dense
from mindrl.weight_maps.architecture import Architecture
from mindrl.weight_maps.config_json import dense_architecture

MODEL_TYPE = "qwen3"
TITLE = "Qwen3"
LAYER = (dense.input_norm, dense.attention, dense.qk_norms, dense.mlp_norm, dense.gated_mlp)
DEFAULT_HEAD_DIM = 128


def architecture(config: Mapping[str, Any]) -> Architecture:
    return dense_architecture(
        config, family=MODEL_TYPE, qkv_bias=False, qk_norm=True, head_dim=DEFAULT_HEAD_DIM
    )
