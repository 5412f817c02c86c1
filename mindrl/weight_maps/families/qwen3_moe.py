"""Qwen3 with experts: Qwen3's attention, and experts in place of (most) MLPs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mindrl.errors import RequestError
from mindrl.weight_maps import dense, experts
from mindrl.weight_maps.architecture import Architecture, MixtureOfExperts
from mindrl.weight_maps.config_json import dense_architecture
from mindrl.weight_maps.numbers import count, experts_per_token, flag, positive

MODEL_TYPE = "qwen3_moe"
TITLE = "Qwen3-MoE"
LAYER = (dense.input_norm, dense.attention, dense.qk_norms, dense.mlp_norm, experts.mlp_or_experts)


def architecture(config: Mapping[str, Any]) -> Architecture:
    without_experts = dense_architecture(config, family=MODEL_TYPE, qkv_bias=False, qk_norm=True)
    # transformers 5.17 writes the number of experts under the second name
    key = "num_experts" if "num_experts" in config else "num_local_experts"
    num_experts = count(config, key)
    if num_experts == 0:
        return without_experts
    mixture = MixtureOfExperts(
        num_experts=num_experts,
        experts_per_token=experts_per_token(config, num_experts),
        intermediate_size=positive(config, "moe_intermediate_size"),
        shared_intermediate_size=0,
        dense_layers=_dense_layers(config, without_experts.num_layers),
        scoring="softmax",
        normalize_top_k=flag(config, "norm_topk_prob"),
        score_correction_bias=False,
        routed_scaling_factor=1.0,
        num_groups=1,
        groups_per_token=1,
    )
    return replace(without_experts, experts=mixture)


def _dense_layers(config: Mapping[str, Any], num_layers: int) -> frozenset[int]:
    """Those listed, and all but each `decoder_sparse_step`-th."""
    step = positive(config, "decoder_sparse_step", default=1)
    listed = config.get("mlp_only_layers") or []
    if not isinstance(listed, list) or any(not isinstance(layer, int) for layer in listed):
        raise RequestError(f"config.json: mlp_only_layers is {listed!r}, expected a list of layers.")
    return frozenset(layer for layer in range(num_layers) if layer in listed or (layer + 1) % step)
