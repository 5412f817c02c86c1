"""What the HAL must know about the actor before it chooses kernels."""

from dataclasses import replace

import torch

from hal import KernelFacts
from mindrl.config.actor import ActorConfig
from mindrl.weight_maps import Architecture

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def kernel_facts(actor: ActorConfig, arch: Architecture) -> KernelFacts:
    """Facts of one rank's shard; the reference policy has the same, because it shares the actor's layout."""
    latent, tensor = arch.latent_attention, actor.tensor_model_parallel_size
    facts = KernelFacts(
        dtype=DTYPES[actor.dtype],
        head_dim=arch.head_dim,
        num_heads=arch.num_heads // tensor,
        num_kv_heads=arch.num_kv_heads // tensor,
        hidden_size=arch.hidden_size,
        vocab_size=arch.vocab_size,
        value_head_dim=None if latent is None else latent.v_head_dim,
        rotary_interleaved=latent is not None,
        dropout=float(actor.transformer_config.get("attention_dropout", 0.0)),
        own_optimizer=True,
    )
    if arch.experts is None:
        return facts
    return replace(
        facts,
        num_experts=arch.experts.num_experts // actor.expert_model_parallel_size,
        experts_per_token=arch.experts.experts_per_token,
        expert_size=arch.experts.intermediate_size // tensor,
    )
