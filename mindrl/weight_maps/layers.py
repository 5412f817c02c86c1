"""A model's tensors: those outside of layers, and each layer's as its family's parts say."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from mindrl.weight_maps.architecture import Architecture
from mindrl.weight_maps.rules import HfTensor, Partition, Place, RowBlock, Shape, TensorRule


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer layer: what its tensors are called on both sides, and where checkpoints stack them."""

    arch: Architecture
    hf_prefix: str
    """As in `model.layers.3.`."""
    megatron_prefix: str
    """As in `decoder.layers.3.`."""
    checkpoint_prefix: str
    """Of keys: `decoder.layers.` where layers are stacked, else the same as `megatron_prefix`."""
    stacked_at: tuple[Place, ...]
    """The layer's place in the stack, or nothing."""
    has_experts: bool

    def rule(
        self,
        megatron_name: str,
        *hf: tuple[str, Shape],
        partition: Partition = "replicated",
        blocks: tuple[RowBlock, ...] | None = None,
        checkpoint_name: str | None = None,
        other_names: tuple[str, ...] = (),
        keeps_dtype: bool = False,
    ) -> TensorRule:
        """All names are relative to the layer. `hf`: names and shapes of the sources, one below the other unless
        `blocks` says otherwise. `checkpoint_name`, `other_names`: where checkpoints name it differently."""
        return TensorRule(
            megatron_name=self.megatron_prefix + megatron_name,
            checkpoint_key=self.checkpoint_prefix + (checkpoint_name or megatron_name),
            stacked_at=self.stacked_at,
            hf=tuple(HfTensor(self.hf_prefix + name, shape) for name, shape in hf),
            blocks=blocks or whole(*(shape for _, shape in hf)),
            partition=partition,
            other_keys=tuple(self.checkpoint_prefix + name for name in other_names),
            keeps_dtype=keeps_dtype,
        )


Part = Callable[[Layer], Iterable[TensorRule]]
"""Some of a layer's tensors."""


def whole(*shapes: Shape) -> tuple[RowBlock, ...]:
    """All rows of every source, one below the other."""
    return tuple(RowBlock(source, 0, shape[0]) for source, shape in enumerate(shapes))


def decoder_layer(arch: Architecture, index: int) -> Layer:
    """Checkpoints stack layers where all are alike, as Megatron-core does."""
    name = f"decoder.layers.{index}."
    alike = arch.layers_are_alike
    return Layer(
        arch=arch,
        hf_prefix=f"model.layers.{index}.",
        megatron_prefix=name,
        checkpoint_prefix="decoder.layers." if alike else name,
        stacked_at=(Place(index, arch.num_layers),) if alike else (),
        has_experts=arch.has_experts(index),
    )


def decoder(arch: Architecture, parts: Iterable[Part]) -> Iterator[TensorRule]:
    """Embedding, every layer's parts, final norm, and an output layer unless it is tied."""
    parts = tuple(parts)
    yield _outside("embedding.word_embeddings.weight", "model.embed_tokens.weight", _vocabulary(arch))
    for index in range(arch.num_layers):
        layer = decoder_layer(arch, index)
        for part in parts:
            yield from part(layer)
    yield _outside("decoder.final_layernorm.weight", "model.norm.weight", (arch.hidden_size,))
    if not arch.tied_embeddings:
        yield _outside("output_layer.weight", "lm_head.weight", _vocabulary(arch))


def _vocabulary(arch: Architecture) -> Shape:
    """A row per token."""
    return (arch.vocab_size, arch.hidden_size)


def _outside(megatron_name: str, hf_name: str, shape: Shape) -> TensorRule:
    """A tensor that is in no layer; a matrix has a row per token."""
    per_token = len(shape) > 1
    return TensorRule(
        megatron_name=megatron_name,
        checkpoint_key=megatron_name,
        stacked_at=(),
        hf=(HfTensor(hf_name, shape),),
        blocks=whole(shape),
        partition="rows" if per_token else "replicated",
        pads_vocabulary=per_token,
    )
