"""Megatron's TransformerConfig from the model's architecture, the actor's layout and the user's pass-through."""

from collections.abc import Mapping
from typing import Any, get_type_hints

import torch
from megatron.core.transformer import MLATransformerConfig, TransformerConfig
from torch.nn.functional import silu

from mindrl.config import names
from mindrl.config.actor import ActorConfig
from mindrl.errors import RequestError
from mindrl.models.kernel_facts import DTYPES
from mindrl.models.megatron.model_settings import model_settings
from mindrl.weight_maps import Architecture

PASSED_THROUGH = frozenset(
    {
        "account_for_embedding_in_pipeline_split",
        "account_for_loss_in_pipeline_split",
        "attention_dropout",
        "batch_p2p_comm",
        "batch_p2p_sync",
        "deterministic_mode",
        "disable_bf16_reduced_precision_matmul",
        "distribute_saved_activations",
        "fp32_residual_connection",
        "hidden_dropout",
        "num_layers_in_first_pipeline_stage",
        "num_layers_in_last_pipeline_stage",
        "recompute_granularity",
        "recompute_method",
        "recompute_modules",
        "recompute_num_layers",
    }
)
"""Fields of TransformerConfig that act in this backend and that nothing else in the configuration decides."""


FIXED: Mapping[str, Any] = {
    "normalization": "RMSNorm",
    "add_bias_linear": False,
    "gated_linear_unit": True,
    "activation_func": silu,
    "use_te_activation_func": True,  # the hook that takes the spec's activation module, whoever made it
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
    "calculate_per_token_loss": True,  # keeps Megatron from dividing the loss by counts of its own
    "perform_initialization": False,
    "transformer_impl": "local",
    "bias_activation_fusion": False,
    "bias_dropout_fusion": False,
    "masked_softmax_fusion": False,
    "persist_layer_norm": False,
    "gradient_accumulation_fusion": False,
}
"""The same for every model and layout; weights are loaded after a model is built, so nothing is initialised."""


def build_transformer_config(
    actor: ActorConfig, arch: Architecture, *, fused_rope: bool
) -> TransformerConfig:
    """The model as Megatron-core sees it. `fused_rope`: rotary embedding through the hook of `use_rotary_kernel`.

    Raises `RequestError` for pass-through keys that don't exist or have no effect, and for what Megatron-core
    itself refuses."""
    check_pass_through(actor.transformer_config)
    dtype = DTYPES[actor.dtype]
    latent = arch.latent_attention is not None
    settings = model_settings(arch) | {
        "apply_rope_fusion": fused_rope and not latent,  # latent attention calls the kernel itself
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "bf16": dtype is torch.bfloat16,
        "tensor_model_parallel_size": actor.tensor_model_parallel_size,
        "sequence_parallel": actor.sequence_parallel and actor.tensor_model_parallel_size > 1,
        "pipeline_model_parallel_size": actor.pipeline_model_parallel_size,
        "expert_model_parallel_size": actor.expert_model_parallel_size,
        "expert_tensor_parallel_size": actor.tensor_model_parallel_size,
    }
    make = MLATransformerConfig if latent else TransformerConfig
    try:
        return make(**(FIXED | settings | actor.transformer_config))
    except (ValueError, AssertionError, TypeError) as error:
        raise RequestError(
            f"Megatron-core refuses the model's configuration with actor.transformer_config "
            f"{actor.transformer_config}: {error}"
        ) from error


def check_pass_through(overrides: Mapping[str, Any]) -> None:
    """Refuse keys of `actor.transformer_config` that Megatron-core lacks or that would not act, and wrong types."""
    known = get_type_hints(TransformerConfig)
    reason = (
        "this backend decides it itself (from the model, the actor's layout and the kernels) or does not support it; "
        f"fields that are passed through: {', '.join(sorted(PASSED_THROUGH))}"
    )
    names.check_pass_through(
        "actor.transformer_config",
        overrides,
        known,
        dict.fromkeys(known.keys() - PASSED_THROUGH, reason),
        "Megatron-core's TransformerConfig",
    )
    for name in ("attention_dropout", "hidden_dropout"):
        if not 0 <= overrides.get(name, 0.0) < 1:
            raise RequestError(
                f"actor.transformer_config.{name}: found {overrides[name]}, expected a share of at least 0 and below 1"
            )
