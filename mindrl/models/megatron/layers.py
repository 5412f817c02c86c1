"""Transformer layers of Megatron-core whose norms, attention and activation are the HAL's kernels."""

from contextlib import nullcontext
from typing import Any

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear, get_cuda_rng_tracker
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from hal import Selection


class RmsNorm(torch.nn.Module):
    """RMSNorm. Megatron's own for no particular device refuses sequence parallelism."""

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float, selection: Selection, **_: Any
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.empty(hidden_size, dtype=config.params_dtype))
        # Each tensor-parallel rank sees its part of the sequence only: Megatron adds such gradients up.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        self._kernel = selection.rms_norm

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[..., hidden_size] -> the same shape and type."""
        return self._kernel(hidden_states, self.weight, self.eps)


class CoreAttention(MegatronModule):
    """Causal attention over dense rows. Padding is on the right, so that no mask is needed."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        selection: Selection,
        softmax_scale: float | None = None,
        **_: Any,
    ) -> None:
        super().__init__(config)
        del layer_number, attention_type
        assert attn_mask_type is AttnMaskType.causal
        self._scale = config.kv_channels**-0.5 if softmax_scale is None else softmax_scale
        self._dropout = config.attention_dropout
        self._kernel = selection.attention

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: None, **_: Any
    ) -> torch.Tensor:
        """query [length, rows, heads, head_dim], key and value with kv_heads -> [length, rows, heads * head_dim]."""
        assert attention_mask is None
        dropout = self._dropout if self.training else 0.0
        # Tensor-parallel ranks have different heads, which must not lose the same probabilities.
        with get_cuda_rng_tracker().fork() if dropout else nullcontext():
            out = self._kernel(
                query.transpose(0, 1),
                key.transpose(0, 1),
                value.transpose(0, 1),
                softmax_scale=self._scale,
                dropout_p=dropout,
            )
        return out.transpose(0, 1).flatten(2)


class Swiglu(MegatronModule):
    """Gated activation on the halves of the first MLP product."""

    def __init__(self, config: TransformerConfig, selection: Selection) -> None:
        super().__init__(config)
        self._kernel = selection.swiglu

    def forward(self, intermediate: torch.Tensor) -> torch.Tensor:
        """[..., 2 * features] -> [..., features]"""
        return self._kernel(intermediate)


def decoder_spec(transformer: TransformerConfig, selection: Selection) -> TransformerBlockSubmodules:
    """The layers of this pipeline stage, and the final norm."""
    kernels = {"selection": selection}
    norm = ModuleSpec(module=RmsNorm, params=kernels)
    qk_norm = norm if transformer.qk_layernorm else IdentityOp
    layer = ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm,
            self_attention=ModuleSpec(
                module=SelfAttention,
                params={"attn_mask_type": AttnMaskType.causal},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=ColumnParallelLinear,
                    core_attention=ModuleSpec(module=CoreAttention, params=kernels),
                    linear_proj=RowParallelLinear,
                    q_layernorm=qk_norm,
                    k_layernorm=qk_norm,
                ),
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=norm,
            mlp=ModuleSpec(
                module=MLP,
                submodules=MLPSubmodules(
                    linear_fc1=ColumnParallelLinear,
                    activation_func=ModuleSpec(module=Swiglu, params=kernels),
                    linear_fc2=RowParallelLinear,
                ),
            ),
            mlp_bda=get_bias_dropout_add,
            # Checkpoints name norms as part of the projection that follows, so that fused layers load them too.
            sharded_state_dict_keys_map={
                "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
                "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
            },
        ),
    )
    return TransformerBlockSubmodules(
        layer_specs=[layer] * get_num_layers_to_build(transformer), layer_norm=norm
    )
