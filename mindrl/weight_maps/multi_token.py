"""Layers for multi-token prediction (DeepSeek-AI 2024, DeepSeek-V3, section 2.2, eq. 21 to 24).

Each is a transformer layer whose input is made of the output of the one before and the embedding of the next token:
both are normalized, put side by side (the embedding first, unlike in eq. 21, on both sides) and projected. transformers
has no forward pass for these layers; Megatron-core's agrees with the report's equations, but for handing the next such
layer its output after the last norm.

Hugging Face files number these layers after the decoder's, and hold for each a copy of the embedding and of the output
layer. Megatron shares both. So no rule holds the copies: they are compared with what they are copies of when files are
read, and written from it when files are written, so that every tensor comes back bit for bit.
"""

from collections.abc import Iterable, Iterator

from mindrl.errors import RequestError
from mindrl.weight_maps.architecture import Architecture
from mindrl.weight_maps.layers import Layer, Part
from mindrl.weight_maps.rules import TensorRule

MTP_PREFIX = "mtp."
"""Of all Megatron's names for what is in these layers."""


def mtp_layers(arch: Architecture, parts: Iterable[Part]) -> Iterator[TensorRule]:
    """Every MTP layer: its input's norms and projection, the transformer layer, and the norm before the output layer."""
    if arch.num_mtp_layers == 0:
        raise RequestError(
            f"This {arch.model_type} model has no layers for multi-token prediction in config.json."
        )
    parts = tuple(parts)
    for number in range(arch.num_mtp_layers):
        around = _layer(arch, number, f"{MTP_PREFIX}layers.{number}.")
        inside = _layer(arch, number, f"{MTP_PREFIX}layers.{number}.transformer_layer.")
        vector, hidden = (arch.hidden_size,), arch.hidden_size
        yield around.rule("enorm.weight", ("enorm.weight", vector))
        yield around.rule("hnorm.weight", ("hnorm.weight", vector))
        yield around.rule("eh_proj.weight", ("eh_proj.weight", (hidden, 2 * hidden)), partition="rows")
        for part in parts:
            yield from part(inside)
        yield around.rule("final_layernorm.weight", ("shared_head.norm.weight", vector))


def copies(arch: Architecture) -> dict[str, str]:
    """Each MTP layer's embedding and output layer, and the tensor of the model that they are copies of."""
    output = "model.embed_tokens.weight" if arch.tied_embeddings else "lm_head.weight"
    found: dict[str, str] = {}
    for number in range(arch.num_mtp_layers):
        prefix = _hf_prefix(arch, number)
        found[f"{prefix}embed_tokens.weight"] = "model.embed_tokens.weight"
        found[f"{prefix}shared_head.head.weight"] = output
    return found


def _layer(arch: Architecture, number: int, megatron_prefix: str) -> Layer:
    """MTP layers are never stacked; Megatron builds them as it builds the decoder's last layer."""
    return Layer(
        arch=arch,
        hf_prefix=_hf_prefix(arch, number),
        megatron_prefix=megatron_prefix,
        checkpoint_prefix=megatron_prefix,
        stacked_at=(),
        has_experts=arch.has_experts(arch.num_layers - 1),
    )


def _hf_prefix(arch: Architecture, number: int) -> str:
    return f"model.layers.{arch.num_layers + number}."
