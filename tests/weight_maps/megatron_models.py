"""Megatron-core models of an architecture, whole, in one process: of Megatron's own layers, or of the project's."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Literal
from unittest.mock import patch

import torch
from megatron.core import parallel_state
from megatron.core.extensions.transformer_engine_spec_provider import TESpecProvider
from megatron.core.models.backends import LocalSpecProvider
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_decoder_block_spec,
    get_gpt_mtp_block_spec_for_backend,
)
from megatron.core.transformer import MLATransformerConfig, TransformerConfig, transformer_block
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

import hal
from mindrl.models.megatron.device import prepare
from mindrl.models.megatron.layers import HalSpecProvider, decoder_spec
from mindrl.models.megatron.random_state import seed_generators
from mindrl.models.megatron.transformer_config import FIXED
from mindrl.weight_maps import Architecture, WeightMap

Layers = Literal["megatron", "transformer_engine", "project"]


class NoAttention(torch.nn.Module):
    """In the place of Megatron's local core attention, which can't be built for latent attention in 0.16.1 (it takes no
    `k_channels`). It has no weights either."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()


def build(architecture: Architecture, layers: Layers) -> GPTModel:
    """A model on the CPU with all its layers, those for multi-token prediction too."""
    accelerator = hal.choose("cpu")
    prepare(accelerator)
    parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(create_gloo_process_groups=False)
    seed_generators(11, accelerator)
    config = transformer_config(architecture, layers)
    if layers == "project":
        selection = hal.select(accelerator, kernel_facts(architecture))
        spec, backend = decoder_spec(config, selection), HalSpecProvider(selection)
    else:
        transformer_engine = layers == "transformer_engine"
        spec = _spec(config, transformer_engine)
        backend = TESpecProvider() if transformer_engine else LocalSpecProvider()
    mtp = get_gpt_mtp_block_spec_for_backend(config, spec, backend) if architecture.num_mtp_layers else None
    # With TransformerEngine this asks it for a context, which the stand-in does not make.
    no_context = patch.object(transformer_block, "get_cpu_offload_context", lambda *_: (nullcontext(), None))
    with accelerator.device(), no_context:
        return GPTModel(
            config=config,
            transformer_layer_spec=spec,
            vocab_size=architecture.vocab_size,
            max_sequence_length=architecture.max_position_embeddings,
            share_embeddings_and_output_weights=architecture.tied_embeddings,
            position_embedding_type="none" if architecture.latent_attention else "rope",
            mtp_block_spec=mtp,
        )


def _spec(config: TransformerConfig, transformer_engine: bool) -> TransformerBlockSubmodules:
    spec = get_gpt_decoder_block_spec(
        config, use_transformer_engine=transformer_engine, normalization="RMSNorm"
    )
    if config.multi_latent_attention and not transformer_engine:
        for layer in spec.layer_specs:
            layer.submodules.self_attention.submodules.core_attention = NoAttention
    return spec


def transformer_config(arch: Architecture, layers: Layers) -> TransformerConfig:
    """What decides the tensors, and what the project's layers compute."""
    settings: dict[str, Any] = FIXED | {
        "num_layers": arch.num_layers,
        "hidden_size": arch.hidden_size,
        "ffn_hidden_size": arch.intermediate_size,
        "num_attention_heads": arch.num_heads,
        "layernorm_epsilon": arch.rms_norm_eps,
        "qk_layernorm": arch.qk_norm or arch.latent_attention is not None,
        "add_qkv_bias": arch.qkv_bias,
        "params_dtype": torch.float32,
        "use_te_activation_func": layers == "project",
        "transformer_impl": "transformer_engine" if layers == "transformer_engine" else "local",
        "mtp_num_layers": arch.num_mtp_layers or None,
    }
    if arch.experts is not None:
        settings |= {
            "num_moe_experts": arch.experts.num_experts,
            "moe_ffn_hidden_size": arch.experts.intermediate_size,
            "moe_shared_expert_intermediate_size": arch.experts.shared_intermediate_size or None,
            "moe_layer_freq": 1
            if arch.layers_are_alike
            else [int(arch.has_experts(layer)) for layer in range(arch.num_layers)],
            "moe_router_topk": arch.experts.experts_per_token,
            "moe_router_load_balancing_type": "none",
            "moe_router_dtype": "fp32",
            "moe_router_score_function": arch.experts.scoring,
            "moe_router_enable_expert_bias": arch.experts.score_correction_bias,
            "moe_router_topk_scaling_factor": arch.experts.routed_scaling_factor,
            "moe_token_dispatcher_type": "alltoall",
            "moe_grouped_gemm": layers != "megatron",
        }
        if arch.experts.num_groups > 1:
            settings["moe_router_num_groups"] = arch.experts.num_groups
            settings["moe_router_group_topk"] = arch.experts.groups_per_token
    latent = arch.latent_attention
    if latent is None:
        return TransformerConfig(**settings, num_query_groups=arch.num_kv_heads, kv_channels=arch.head_dim)
    return MLATransformerConfig(
        **settings,
        multi_latent_attention=True,
        q_lora_rank=latent.q_lora_rank,
        kv_lora_rank=latent.kv_lora_rank,
        qk_head_dim=latent.qk_nope_head_dim,
        qk_pos_emb_head_dim=latent.qk_rope_head_dim,
        v_head_dim=latent.v_head_dim,
        rope_type="rope",
        rotary_base=arch.rope_theta,
    )


def kernel_facts(arch: Architecture) -> hal.KernelFacts:
    """What the HAL is told."""
    latent, experts = arch.latent_attention, arch.experts
    return hal.KernelFacts(
        dtype=torch.float32,
        head_dim=arch.head_dim,
        value_head_dim=latent.v_head_dim if latent else arch.head_dim,
        num_heads=arch.num_heads,
        num_kv_heads=arch.num_kv_heads,
        hidden_size=arch.hidden_size,
        vocab_size=arch.vocab_size,
        rotary_interleaved=latent is not None,
        num_experts=experts.num_experts if experts else None,
        experts_per_token=experts.experts_per_token if experts else None,
        expert_size=experts.intermediate_size if experts else None,
    )


@torch.no_grad()
def load(model: GPTModel, weights: WeightMap, tensors: Mapping[str, torch.Tensor]) -> None:
    """Take Hugging Face tensors through the map into a model of the project's layers, which hold a layer's experts in
    one tensor."""
    full = {
        rule.megatron_name: rule.merge([tensors[source.name] for source in rule.hf]) for rule in weights.rules
    }
    mine = dict(model.named_parameters()) | {
        name: buffer for name, buffer in model.named_buffers() if name.endswith("expert_bias")
    }
    for name, tensor in mine.items():
        before, experts, after = name.partition(".mlp.experts.")
        if experts:
            whole = [full.pop(f"{before}{experts}{number}.{after}") for number in range(len(tensor))]
            tensor.copy_(torch.stack(whole))
        else:
            tensor.copy_(full.pop(name))
    assert full == {}
