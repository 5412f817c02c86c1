"""What the HAL must know about the actor before it chooses kernels."""

import torch

from hal import KernelFacts
from mindrl.config.actor import ActorConfig
from mindrl.weight_maps import Architecture

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def kernel_facts(actor: ActorConfig, arch: Architecture) -> KernelFacts:
    """Facts of one rank's shard; the reference policy has the same, because it shares the actor's layout."""
    return KernelFacts(
        dtype=DTYPES[actor.dtype],
        head_dim=arch.head_dim,
        num_heads=arch.num_heads // actor.tensor_model_parallel_size,
        num_kv_heads=arch.num_kv_heads // actor.tensor_model_parallel_size,
        hidden_size=arch.hidden_size,
        vocab_size=arch.vocab_size,
        dropout=float(actor.transformer_config.get("attention_dropout", 0.0)),
        own_optimizer=True,
    )
