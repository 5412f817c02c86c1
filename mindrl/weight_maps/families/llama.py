"""Llama 2 and 3, and models that took over their architecture."""

from collections.abc import Mapping
from typing import Any

from mindrl.weight_maps import dense
from mindrl.weight_maps.architecture import Architecture
from mindrl.weight_maps.config_json import dense_architecture

MODEL_TYPE = "llama"
TITLE = "Llama"
LAYER = (dense.input_norm, dense.attention, dense.mlp_norm, dense.gated_mlp)


def architecture(config: Mapping[str, Any]) -> Architecture:
    return dense_architecture(config, family=MODEL_TYPE, qkv_bias=False, qk_norm=False)
