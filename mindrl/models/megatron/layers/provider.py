"""The HAL's kernels as Megatron-core's `BackendSpecProvider`, and the layers that are built from it."""

from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.backends import BackendSpecProvider
from megatron.core.models.gpt.gpt_layer_specs import get_mlp_module_spec_for_backend
from megatron.core.post_training.modelopt.layers import Linear
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.moe.experts import TEGroupedMLP
from megatron.core.transformer.multi_latent_attention import MLASelfAttentionSubmodules
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_layer import (
    TransformerLayer,
    TransformerLayerSubmodules,
    get_transformer_layer_offset,
)

from hal import Selection
from mindrl.errors import RequestError
from mindrl.models.megatron.layers.attention import CoreAttention
from mindrl.models.megatron.layers.dispatcher import MixtureLayer
from mindrl.models.megatron.layers.experts import GroupedLinear, Router, Swiglu
from mindrl.models.megatron.layers.latent_attention import LatentAttention
from mindrl.models.megatron.layers.norm import RmsNorm


class HalSpecProvider(BackendSpecProvider):
    """Which module stands for which part of a layer. Those that compute get the model's `Selection`."""

    def __init__(self, selection: Selection) -> None:
        self._kernels = {"selection": selection}

    def column_parallel_linear(self) -> type:
        """Megatron's own: a product and a collective, which torch has on every device."""
        return ColumnParallelLinear

    def row_parallel_linear(self) -> type:
        """Megatron's own."""
        return RowParallelLinear

    def linear(self) -> type:
        """A linear layer that every tensor-parallel rank has whole; Megatron's own."""
        return Linear

    def fuse_layernorm_and_linear(self) -> bool:
        """Norms are modules of their own."""
        return False

    def column_parallel_layer_norm_linear(self) -> None:
        """There is none, see above."""

    def layer_norm(self, rms_norm: bool = False, for_qk: bool = False) -> ModuleSpec:
        """RMSNorm, whatever is asked: no family of ours has another one."""
        return ModuleSpec(module=RmsNorm, params=self._kernels)

    def core_attention(self) -> ModuleSpec:
        """Dense, packed and context parallel."""
        return ModuleSpec(module=CoreAttention, params=self._kernels)

    def latent_attention(self) -> ModuleSpec:
        """Multi-head latent attention with its projections."""
        return ModuleSpec(
            module=LatentAttention,
            params={"attn_mask_type": AttnMaskType.causal, **self._kernels},
            submodules=MLASelfAttentionSubmodules(
                linear_q_proj=self.column_parallel_linear(),
                # Column parallel ones give silently wrong gradients with sequence parallelism.
                linear_q_down_proj=self.linear(),
                linear_q_up_proj=self.column_parallel_linear(),
                linear_kv_down_proj=self.linear(),
                linear_kv_up_proj=self.column_parallel_linear(),
                core_attention=self.core_attention(),
                linear_proj=self.row_parallel_linear(),
                q_layernorm=self.layer_norm(),
                kv_layernorm=self.layer_norm(),
            ),
        )

    def self_attention(self, *, qk_norm: bool) -> ModuleSpec:
        """Grouped-query attention with its projections."""
        norm = self.layer_norm(for_qk=True) if qk_norm else IdentityOp
        return ModuleSpec(
            module=SelfAttention,
            params={"attn_mask_type": AttnMaskType.causal},
            submodules=SelfAttentionSubmodules(
                linear_qkv=self.column_parallel_linear(),
                core_attention=self.core_attention(),
                linear_proj=self.row_parallel_linear(),
                q_layernorm=norm,
                k_layernorm=norm,
            ),
        )

    def grouped_mlp_modules(
        self, moe_use_grouped_gemm: bool, moe_use_legacy_grouped_gemm: bool
    ) -> tuple[type, MLPSubmodules]:
        """Megatron's module for grouped products, which needs nothing of TransformerEngine but its name."""
        assert moe_use_grouped_gemm
        assert not moe_use_legacy_grouped_gemm
        return TEGroupedMLP, MLPSubmodules(
            linear_fc1=ModuleSpec(module=GroupedLinear, params={"cut": "outputs", **self._kernels}),
            linear_fc2=ModuleSpec(module=GroupedLinear, params={"cut": "inputs", **self._kernels}),
        )

    def activation_func(self) -> ModuleSpec:
        """Gated SiLU."""
        return ModuleSpec(module=Swiglu, params=self._kernels)

    def mlp(self, num_experts: int | None) -> ModuleSpec:
        """A dense feed-forward layer (None), or a mixture of experts with its router and shared experts."""
        spec = get_mlp_module_spec_for_backend(
            self, num_experts, moe_grouped_gemm=True, use_te_activation_func=True
        )
        if num_experts is not None:
            spec.module, spec.params = MixtureLayer, self._kernels
            spec.submodules.router = Router
        return spec


def decoder_spec(transformer: TransformerConfig, selection: Selection) -> TransformerBlockSubmodules:
    """The layers of this pipeline stage, and the final norm.

    Raises `RequestError` for layouts in which Megatron-core would be wrong without a word."""
    _check(transformer)
    provider = HalSpecProvider(selection)
    specs = {
        has_experts: _layer(transformer, provider, has_experts=has_experts) for has_experts in (False, True)
    }
    first, count = get_transformer_layer_offset(transformer), get_num_layers_to_build(transformer)
    kinds = _layers_with_experts(transformer)[first : first + count]
    return TransformerBlockSubmodules(
        layer_specs=[specs[has_experts] for has_experts in kinds], layer_norm=provider.layer_norm()
    )


def _check(transformer: TransformerConfig) -> None:
    if not transformer.multi_latent_attention:
        return
    if transformer.tensor_model_parallel_size > 1 and not transformer.sequence_parallel:
        raise RequestError(
            "multi-head latent attention with actor.tensor_model_parallel_size "
            f"{transformer.tensor_model_parallel_size} and without sequence parallelism has wrong gradients in "
            "Megatron-core: set actor.sequence_parallel to true"
        )
    if transformer.recompute_granularity == "selective" and "mla_up_proj" in transformer.recompute_modules:
        raise RequestError(
            "actor.transformer_config.recompute_modules names mla_up_proj, which this backend does not recompute: "
            "leave it out, or set recompute_granularity to full"
        )


def _layers_with_experts(transformer: TransformerConfig) -> list[bool]:
    """Of every layer of the model, by Megatron's `moe_layer_freq`: a list, or one in so many."""
    if transformer.num_moe_experts is None:
        return [False] * transformer.num_layers
    frequency = transformer.moe_layer_freq
    if isinstance(frequency, int):
        return [layer % frequency == 0 for layer in range(transformer.num_layers)]
    return [bool(flag) for flag in frequency]


def _layer(transformer: TransformerConfig, provider: HalSpecProvider, *, has_experts: bool) -> ModuleSpec:
    latent = transformer.multi_latent_attention
    # Checkpoints name a norm as part of the projection that follows, where that is one of the layers that Megatron
    # fuses with norms, so that fused layers load them too.
    names = {"pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_"} if not has_experts else {}
    if latent:
        names["self_attention.q_layernorm."] = "self_attention.linear_q_up_proj.layer_norm_"
        names["self_attention.kv_layernorm."] = "self_attention.linear_kv_up_proj.layer_norm_"
        attention = provider.latent_attention()
    else:
        names["input_layernorm."] = "self_attention.linear_qkv.layer_norm_"
        attention = provider.self_attention(qk_norm=transformer.qk_layernorm)
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=provider.layer_norm(),
            self_attention=attention,
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=provider.layer_norm(),
            mlp=provider.mlp(transformer.num_moe_experts if has_experts else None),
            mlp_bda=get_bias_dropout_add,
            sharded_state_dict_keys_map=names,
        ),
    )
