"""What a model's architecture is called in Megatron's configuration: attention, experts, rotary embedding.

For architectures that `mindrl.planning.check_trainable` accepts."""

from typing import Any

from mindrl.weight_maps import Architecture, LatentAttention, MixtureOfExperts


def model_settings(arch: Architecture) -> dict[str, Any]:
    """Fields of TransformerConfig; with latent attention, of MLATransformerConfig."""
    settings: dict[str, Any] = {
        "num_layers": arch.num_layers,
        "hidden_size": arch.hidden_size,
        "ffn_hidden_size": arch.intermediate_size,
        "num_attention_heads": arch.num_heads,
        "layernorm_epsilon": arch.rms_norm_eps,
    }
    if arch.latent_attention is None:
        settings |= _grouped_query_attention(arch)
    else:
        settings |= _latent_attention(arch, arch.latent_attention)
    if arch.experts is not None:
        settings |= _experts(arch, arch.experts)
    return settings


def rotary_arguments(arch: Architecture) -> dict[str, Any]:
    """Arguments of GPTModel. Latent attention has its own rotary embedding, and the model none."""
    if arch.latent_attention is not None:
        return {"position_embedding_type": "none"}
    return {
        "position_embedding_type": "rope",
        "rotary_base": arch.rope_theta,
        "rope_scaling": arch.rope_scaling is not None,
        "rope_scaling_factor": arch.rope_scaling["factor"] if arch.rope_scaling else 1.0,
    }


def _grouped_query_attention(arch: Architecture) -> dict[str, Any]:
    return {
        "num_query_groups": arch.num_kv_heads,
        "kv_channels": arch.head_dim,
        "qk_layernorm": arch.qk_norm,
        "add_qkv_bias": arch.qkv_bias,
    }


def _latent_attention(arch: Architecture, latent: LatentAttention) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "multi_latent_attention": True,
        "q_lora_rank": latent.q_lora_rank,
        "kv_lora_rank": latent.kv_lora_rank,
        "qk_head_dim": latent.qk_nope_head_dim,
        "qk_pos_emb_head_dim": latent.qk_rope_head_dim,
        "v_head_dim": latent.v_head_dim,
        "qk_layernorm": True,  # of the short vectors that queries, and keys and values, come out of
        "rope_type": "rope",
        "rotary_base": arch.rope_theta,
        # Scales attention scores whatever the rotary embedding is.
        "mscale_all_dim": 0.0,
    }
    if arch.rope_scaling is None:
        return settings
    stretched = dict(arch.rope_scaling)
    return settings | {
        "rope_type": stretched.pop("rope_type"),
        "rotary_scaling_factor": stretched.pop("factor"),
        **stretched,  # the names of the rest are Megatron's too
    }


def _experts(arch: Architecture, moe: MixtureOfExperts) -> dict[str, Any]:
    has_experts = [int(arch.has_experts(layer)) for layer in range(arch.num_layers)]
    settings: dict[str, Any] = {
        "num_moe_experts": moe.num_experts,
        "moe_ffn_hidden_size": moe.intermediate_size,
        "moe_shared_expert_intermediate_size": moe.shared_intermediate_size or None,
        # Checkpoints stack layers where this is a number.
        "moe_layer_freq": 1 if all(has_experts) else has_experts,
        "moe_router_topk": moe.experts_per_token,
        "moe_router_score_function": moe.scoring,
        # Softmax over all experts and then the choice, or over the chosen ones: which normalises their scores.
        "moe_router_pre_softmax": moe.scoring == "softmax" and not moe.normalize_top_k,
        "moe_router_topk_scaling_factor": moe.routed_scaling_factor,
        "moe_router_enable_expert_bias": moe.score_correction_bias,
        "moe_router_bias_update_rate": 0.0,  # what balances experts is not the policy's loss
        "moe_router_load_balancing_type": "none",
        "moe_router_dtype": "fp32",
        "moe_token_dispatcher_type": "alltoall",
        "moe_grouped_gemm": True,
    }
    if moe.groups_per_token < moe.num_groups:
        settings |= {"moe_router_num_groups": moe.num_groups, "moe_router_group_topk": moe.groups_per_token}
    return settings
