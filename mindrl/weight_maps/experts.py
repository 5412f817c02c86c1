"""The feed-forward part of layers that may have experts: router, routed experts, shared experts, or a plain MLP."""

from collections.abc import Iterable

from mindrl.weight_maps.architecture import MixtureOfExperts
from mindrl.weight_maps.dense import gated, gated_mlp
from mindrl.weight_maps.layers import Layer, whole
from mindrl.weight_maps.rules import HfTensor, Place, TensorRule


def mlp_or_experts(layer: Layer) -> Iterable[TensorRule]:
    """What this layer has: one MLP, or a router with its experts."""
    experts = layer.arch.experts
    if experts is None or not layer.has_experts:
        yield from gated_mlp(layer)
        return
    yield from router(layer, experts)
    if experts.shared_intermediate_size:
        yield from gated(layer, "mlp.shared_experts", experts.shared_intermediate_size)
    yield from routed(layer, experts)


def router(layer: Layer, experts: MixtureOfExperts) -> Iterable[TensorRule]:
    """A row per expert, on every rank, and the number per expert that is added for choosing: Megatron holds it in
    float32 whatever the weights are in."""
    yield layer.rule("mlp.router.weight", ("mlp.gate.weight", (experts.num_experts, layer.arch.hidden_size)))
    if experts.score_correction_bias:
        yield layer.rule(
            "mlp.router.expert_bias",
            ("mlp.gate.e_score_correction_bias", (experts.num_experts,)),
            keeps_dtype=True,
        )


def routed(layer: Layer, experts: MixtureOfExperts) -> Iterable[TensorRule]:
    """Two matrices an expert: gate above up, and down. Checkpoints stack them over the layer's experts."""
    hidden, width = layer.arch.hidden_size, experts.intermediate_size
    up, down = (width, hidden), (hidden, width)
    gate_up_blocks, down_blocks = whole(up, up), whole(down)
    megatron, hf = f"{layer.megatron_prefix}mlp.experts", f"{layer.hf_prefix}mlp.experts"
    key = f"{layer.checkpoint_prefix}mlp.experts.experts"
    for expert in range(experts.num_experts):
        stacked_at = (*layer.stacked_at, Place(expert, experts.num_experts))
        yield TensorRule(
            megatron_name=f"{megatron}.{expert}.linear_fc1.weight",
            checkpoint_key=f"{key}.linear_fc1.weight",
            stacked_at=stacked_at,
            hf=(
                HfTensor(f"{hf}.{expert}.gate_proj.weight", up),
                HfTensor(f"{hf}.{expert}.up_proj.weight", up),
            ),
            blocks=gate_up_blocks,
            partition="gated_rows",
            expert=expert,
        )
        yield TensorRule(
            megatron_name=f"{megatron}.{expert}.linear_fc2.weight",
            checkpoint_key=f"{key}.linear_fc2.weight",
            stacked_at=stacked_at,
            hf=(HfTensor(f"{hf}.{expert}.down_proj.weight", down),),
            blocks=down_blocks,
            partition="columns",
            expert=expert,
        )
