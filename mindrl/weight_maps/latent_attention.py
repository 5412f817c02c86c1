"""Multi-head latent attention (DeepSeek-AI 2024, DeepSeek-V2, section 2.1): row by row the same on both sides.

Both compute the rotary part from neighbouring pairs of rows, so that no row moves."""

from collections.abc import Iterable

from mindrl.weight_maps.layers import Layer
from mindrl.weight_maps.rules import Shape, TensorRule


def latent_attention(layer: Layer) -> Iterable[TensorRule]:
    """Queries, through a short vector or not; the short vector of keys and values with the shared rotary key; keys
    and values out of it; and the output."""
    arch, latent = layer.arch, layer.arch.latent_attention
    assert latent is not None
    hidden, heads = arch.hidden_size, arch.num_heads
    queries, rank = heads * arch.head_dim, latent.kv_lora_rank
    if latent.q_lora_rank is None:
        yield layer.rule(
            "self_attention.linear_q_proj.weight",
            ("self_attn.q_proj.weight", (queries, hidden)),
            partition="rows",
        )
    else:
        yield from _compressed(
            layer, "q", "q_a_proj", (latent.q_lora_rank, hidden), latent.q_lora_rank, queries
        )
    keys_values = heads * (latent.qk_nope_head_dim + latent.v_head_dim)
    down = (rank + latent.qk_rope_head_dim, hidden)
    yield from _compressed(layer, "kv", "kv_a_proj_with_mqa", down, rank, keys_values)
    yield layer.rule(
        "self_attention.linear_proj.weight",
        ("self_attn.o_proj.weight", (hidden, heads * latent.v_head_dim)),
        partition="columns",
    )


def _compressed(
    layer: Layer, what: str, hf_down: str, down: Shape, rank: int, num_rows: int
) -> Iterable[TensorRule]:
    """Down projection, norm, up projection. TransformerEngine fuses the norm with the projection up, and checkpoints
    name it so; Megatron's local spec, where it is a module of its own, asks for its own name."""
    name = f"self_attention.linear_{what}"
    yield layer.rule(f"{name}_down_proj.weight", (f"self_attn.{hf_down}.weight", down))
    yield layer.rule(
        f"self_attention.{what}_layernorm.weight",
        (f"self_attn.{what}_a_layernorm.weight", (rank,)),
        checkpoint_name=f"{name}_up_proj.layer_norm_weight",
        other_names=(f"self_attention.{what}_layernorm.weight",),
    )
    yield layer.rule(
        f"{name}_up_proj.weight", (f"self_attn.{what}_b_proj.weight", (num_rows, rank)), partition="rows"
    )
