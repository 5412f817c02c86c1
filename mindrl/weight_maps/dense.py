"""The parts that layers of dense decoder families are made of; a family file lists the ones it has."""

from collections.abc import Iterable

from mindrl.weight_maps.layers import Layer
from mindrl.weight_maps.rules import RowBlock, TensorRule


def input_norm(layer: Layer) -> Iterable[TensorRule]:
    """Norm before attention. Checkpoints name it as part of the projection that follows, as the fused one is; with
    latent attention nothing is fused with it."""
    yield layer.rule(
        "input_layernorm.weight",
        ("input_layernorm.weight", (layer.arch.hidden_size,)),
        checkpoint_name=None
        if layer.arch.latent_attention
        else "self_attention.linear_qkv.layer_norm_weight",
    )


def attention(layer: Layer) -> Iterable[TensorRule]:
    """Query, key and value interleaved by key-value head (q q .. k v, q q .. k v, ...), and the output."""
    arch = layer.arch
    yield _qkv(layer, "weight")
    if arch.qkv_bias:
        yield _qkv(layer, "bias")
    yield layer.rule(
        "self_attention.linear_proj.weight",
        ("self_attn.o_proj.weight", (arch.hidden_size, arch.num_heads * arch.head_dim)),
        partition="columns",
    )


def qk_norms(layer: Layer) -> Iterable[TensorRule]:
    """Norms over each query and key head."""
    for letter in "qk":
        yield layer.rule(
            f"self_attention.{letter}_layernorm.weight",
            (f"self_attn.{letter}_norm.weight", (layer.arch.head_dim,)),
        )


def mlp_norm(layer: Layer) -> Iterable[TensorRule]:
    """Norm before the MLP or the experts. TransformerEngine fuses it with an MLP's projection and not with experts;
    Megatron's local specs name it as fused with grouped-query attention, and never with latent attention."""
    own, fused = "pre_mlp_layernorm.weight", "mlp.linear_fc1.layer_norm_weight"
    local = own if layer.arch.latent_attention else fused
    name = own if layer.has_experts else fused
    yield layer.rule(
        own,
        ("post_attention_layernorm.weight", (layer.arch.hidden_size,)),
        checkpoint_name=name,
        other_names=() if name == local else (local,),
    )


def gated_mlp(layer: Layer) -> Iterable[TensorRule]:
    """Gate above up in one tensor, and down."""
    yield from gated(layer, "mlp", layer.arch.intermediate_size)


def gated(layer: Layer, name: str, width: int) -> Iterable[TensorRule]:
    """A gated MLP that both sides call `name`."""
    hidden = layer.arch.hidden_size
    yield layer.rule(
        f"{name}.linear_fc1.weight",
        *((f"{name}.{half}_proj.weight", (width, hidden)) for half in ("gate", "up")),
        partition="gated_rows",
    )
    yield layer.rule(
        f"{name}.linear_fc2.weight", (f"{name}.down_proj.weight", (hidden, width)), partition="columns"
    )


def _qkv(layer: Layer, kind: str) -> TensorRule:
    arch = layer.arch
    query_rows, head_rows = arch.heads_per_group * arch.head_dim, arch.head_dim
    columns = (arch.hidden_size,) if kind == "weight" else ()
    heads = {"q": arch.num_heads, "k": arch.num_kv_heads, "v": arch.num_kv_heads}
    blocks: list[RowBlock] = []
    for group in range(arch.num_kv_heads):
        blocks.append(RowBlock(0, group * query_rows, query_rows))
        blocks.append(RowBlock(1, group * head_rows, head_rows))
        blocks.append(RowBlock(2, group * head_rows, head_rows))
    return layer.rule(
        f"self_attention.linear_qkv.{kind}",
        *(
            (f"self_attn.{letter}_proj.{kind}", (count * head_rows, *columns))
            for letter, count in heads.items()
        ),
        partition="rows",
        blocks=tuple(blocks),
    )
