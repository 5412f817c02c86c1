"""The tensors that dense decoder families are made of; a family file lists the ones it has."""

from collections.abc import Callable, Iterable

from mindrl.weight_maps.architecture import Architecture
from mindrl.weight_maps.rules import HfTensor, Partition, Place, RowBlock, TensorRule

LayerTensors = Callable[[Architecture, int], Iterable[TensorRule]]


def whole_model(arch: Architecture, layer_parts: Iterable[LayerTensors]) -> tuple[TensorRule, ...]:
    """Embedding, every layer's parts, final norm, and an output layer unless it is tied."""
    parts = tuple(layer_parts)
    rules = [vocabulary(arch, "embedding.word_embeddings.weight", "model.embed_tokens.weight")]
    for layer in range(arch.num_layers):
        for part in parts:
            rules.extend(part(arch, layer))
    rules.append(
        _one_to_one("decoder.final_layernorm.weight", "model.norm.weight", (arch.hidden_size,), "replicated")
    )
    if not arch.tied_embeddings:
        rules.append(vocabulary(arch, "output_layer.weight", "lm_head.weight"))
    return tuple(rules)


def vocabulary(arch: Architecture, megatron_name: str, hf_name: str) -> TensorRule:
    """Embedding or output layer: a row per token."""
    shape = (arch.vocab_size, arch.hidden_size)
    return _one_to_one(megatron_name, hf_name, shape, "rows", pads_vocabulary=True)


def input_norm(arch: Architecture, layer: int) -> Iterable[TensorRule]:
    """Norm before attention. Checkpoints name it as part of the projection that follows, as the fused one is."""
    yield _layer_tensor(
        arch,
        layer,
        "input_layernorm.weight",
        "input_layernorm.weight",
        (arch.hidden_size,),
        checkpoint_name="self_attention.linear_qkv.layer_norm_weight",
    )


def attention(arch: Architecture, layer: int) -> Iterable[TensorRule]:
    """Query, key and value interleaved by key-value head (q q .. k v, q q .. k v, ...), and the output."""
    yield _qkv(arch, layer, "weight")
    if arch.qkv_bias:
        yield _qkv(arch, layer, "bias")
    yield _layer_tensor(
        arch,
        layer,
        "self_attention.linear_proj.weight",
        "self_attn.o_proj.weight",
        (arch.hidden_size, arch.num_heads * arch.head_dim),
        "columns",
    )


def qk_norms(arch: Architecture, layer: int) -> Iterable[TensorRule]:
    """Norms over each query and key head."""
    for letter in "qk":
        yield _layer_tensor(
            arch,
            layer,
            f"self_attention.{letter}_layernorm.weight",
            f"self_attn.{letter}_norm.weight",
            (arch.head_dim,),
        )


def mlp_norm(arch: Architecture, layer: int) -> Iterable[TensorRule]:
    """Norm before the MLP; its name in checkpoints as with `input_norm`."""
    yield _layer_tensor(
        arch,
        layer,
        "pre_mlp_layernorm.weight",
        "post_attention_layernorm.weight",
        (arch.hidden_size,),
        checkpoint_name="mlp.linear_fc1.layer_norm_weight",
    )


def gated_mlp(arch: Architecture, layer: int) -> Iterable[TensorRule]:
    """Gate above up in one tensor, and down."""
    width = arch.intermediate_size
    yield TensorRule(
        megatron_name=f"decoder.layers.{layer}.mlp.linear_fc1.weight",
        checkpoint_key="decoder.layers.mlp.linear_fc1.weight",
        stacked_at=(Place(layer, arch.num_layers),),
        hf=tuple(
            HfTensor(f"model.layers.{layer}.mlp.{half}_proj.weight", (width, arch.hidden_size))
            for half in ("gate", "up")
        ),
        blocks=(RowBlock(0, 0, width), RowBlock(1, 0, width)),
        partition="gated_rows",
    )
    yield _layer_tensor(
        arch, layer, "mlp.linear_fc2.weight", "mlp.down_proj.weight", (arch.hidden_size, width), "columns"
    )


def _qkv(arch: Architecture, layer: int, kind: str) -> TensorRule:
    query_rows, head_rows = arch.heads_per_group * arch.head_dim, arch.head_dim
    columns = (arch.hidden_size,) if kind == "weight" else ()
    rows = {
        "q": arch.num_heads * arch.head_dim,
        "k": arch.num_kv_heads * arch.head_dim,
        "v": arch.num_kv_heads * arch.head_dim,
    }
    blocks: list[RowBlock] = []
    for group in range(arch.num_kv_heads):
        blocks.append(RowBlock(0, group * query_rows, query_rows))
        blocks.append(RowBlock(1, group * head_rows, head_rows))
        blocks.append(RowBlock(2, group * head_rows, head_rows))
    return TensorRule(
        megatron_name=f"decoder.layers.{layer}.self_attention.linear_qkv.{kind}",
        checkpoint_key=f"decoder.layers.self_attention.linear_qkv.{kind}",
        stacked_at=(Place(layer, arch.num_layers),),
        hf=tuple(
            HfTensor(f"model.layers.{layer}.self_attn.{letter}_proj.{kind}", (num_rows, *columns))
            for letter, num_rows in rows.items()
        ),
        blocks=tuple(blocks),
        partition="rows",
    )


def _layer_tensor(
    arch: Architecture,
    layer: int,
    megatron_name: str,
    hf_name: str,
    shape: tuple[int, ...],
    partition: Partition = "replicated",
    *,
    checkpoint_name: str | None = None,
) -> TensorRule:
    return _one_to_one(
        f"decoder.layers.{layer}.{megatron_name}",
        f"model.layers.{layer}.{hf_name}",
        shape,
        partition,
        checkpoint_key=f"decoder.layers.{checkpoint_name or megatron_name}",
        stacked_at=(Place(layer, arch.num_layers),),
    )


def _one_to_one(
    megatron_name: str,
    hf_name: str,
    shape: tuple[int, ...],
    partition: Partition,
    *,
    checkpoint_key: str | None = None,
    stacked_at: tuple[Place, ...] = (),
    pads_vocabulary: bool = False,
) -> TensorRule:
    return TensorRule(
        megatron_name=megatron_name,
        checkpoint_key=checkpoint_key or megatron_name,
        stacked_at=stacked_at,
        hf=(HfTensor(hf_name, shape),),
        blocks=(RowBlock(0, 0, shape[0]),),
        partition=partition,
        pads_vocabulary=pads_vocabulary,
    )
