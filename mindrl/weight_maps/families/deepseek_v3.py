"""DeepSeek-V3 and models of its architecture, such as Moonlight: latent attention, and experts after the first layers.

`auto_map` in config.json points to code of the model's own, which is never run. Layers for multi-token prediction
(`num_nextn_predict_layers`) are no part of the model that is trained."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mindrl.weight_maps import dense, experts, latent_attention
from mindrl.weight_maps.architecture import Architecture, LatentAttention, MixtureOfExperts
from mindrl.weight_maps.config_json import dense_architecture
from mindrl.weight_maps.numbers import (
    MOST_COUNTED,
    count,
    expect,
    experts_per_token,
    flag,
    number,
    positive,
)

MODEL_TYPE = "deepseek_v3"
TITLE = "DeepSeek-V3"
LAYER = (dense.input_norm, latent_attention.latent_attention, dense.mlp_norm, experts.mlp_or_experts)


def architecture(config: Mapping[str, Any]) -> Architecture:
    expect(config, "topk_method", "noaux_tc")
    expect(config, "moe_layer_freq", 1)
    latent = _latent_attention(config)
    plain = dense_architecture(config, family=MODEL_TYPE, qkv_bias=False, qk_norm=False, yarn=True)
    return replace(
        plain,
        num_kv_heads=plain.num_heads,
        head_dim=latent.qk_nope_head_dim + latent.qk_rope_head_dim,
        latent_attention=latent,
        experts=mixture_of_experts(config, plain.num_layers),
        num_mtp_layers=count(config, "num_nextn_predict_layers"),
        unsupported=(*plain.unsupported, *_other_forward_pass(config)),
    )


def _other_forward_pass(config: Mapping[str, Any]) -> list[str]:
    """Settings with which the same tensors are computed with differently."""
    scoring, interleave = config.get("scoring_func") or "sigmoid", config.get("rope_interleave", True)
    reasons = {
        f"scoring_func {scoring!r} (only 'sigmoid')": scoring != "sigmoid",
        f"rope_interleave {interleave!r} (only true)": interleave is not True,
    }
    return [reason for reason, unsupported in reasons.items() if unsupported]


def _latent_attention(config: Mapping[str, Any]) -> LatentAttention:
    return LatentAttention(
        q_lora_rank=positive(config, "q_lora_rank") if config.get("q_lora_rank") is not None else None,
        kv_lora_rank=positive(config, "kv_lora_rank"),
        qk_nope_head_dim=positive(config, "qk_nope_head_dim"),
        qk_rope_head_dim=positive(config, "qk_rope_head_dim"),
        v_head_dim=positive(config, "v_head_dim"),
    )


def mixture_of_experts(config: Mapping[str, Any], num_layers: int) -> MixtureOfExperts:
    """Chosen by sigmoid scores with a correction, in all but the first layers; other families have taken it over."""
    width = positive(config, "moe_intermediate_size")
    num_experts = positive(config, "n_routed_experts", most=MOST_COUNTED)
    return MixtureOfExperts(
        num_experts=num_experts,
        experts_per_token=experts_per_token(config, num_experts),
        intermediate_size=width,
        shared_intermediate_size=width * count(config, "n_shared_experts"),
        dense_layers=frozenset(range(min(count(config, "first_k_dense_replace"), num_layers))),
        scoring="sigmoid",
        normalize_top_k=flag(config, "norm_topk_prob", default=True),
        score_correction_bias=True,
        routed_scaling_factor=number("routed_scaling_factor", config.get("routed_scaling_factor", 1.0)),
        num_groups=positive(config, "n_group", default=1),
        groups_per_token=positive(config, "topk_group", default=1),
    )
