"""Names of the `_extra_state` objects that TransformerEngine modules ask a checkpoint for.

Every linear layer and norm of TransformerEngine has one, under the key of the module, with the places that its weight is
stacked at; experts have one each. Embedding, output layer and router are Megatron's own and have none. Core attention
has one in layers for multi-token prediction only, and in other versions of Megatron-core everywhere, so that all are
written.

TransformerEngine itself needs an accelerator, and no model of it has loaded these names here. They are what
Megatron-core 0.16.1's code for it asks for, run with modules that have TransformerEngine's parameters and no more.
"""

from collections.abc import Iterator, Sequence

from mindrl.weight_maps.rules import Place, TensorRule, WeightMap

_WITHOUT = ("embedding.word_embeddings", "output_layer")
_ROUTER = ".mlp.router"


def extra_state_keys(weights: WeightMap) -> list[str]:
    """Every object's name, once."""
    found: dict[str, None] = {}
    for rule in weights.rules:
        for module in _modules(rule):
            found[f"{module}._extra_state/{_shard(rule.stacked_at)}"] = None
    return list(found)


def _modules(rule: TensorRule) -> Iterator[str]:
    """The module of TransformerEngine that holds the tensor, and core attention along with its last projection."""
    module = rule.checkpoint_key.rpartition(".")[0]
    if module not in _WITHOUT and not module.endswith(_ROUTER):
        yield module
    if module.endswith("self_attention.linear_proj"):
        yield module.replace("linear_proj", "core_attention")


def _shard(stacked_at: Sequence[Place]) -> str:
    """As Megatron names a part of an object: offsets and sizes along the dimensions that it is stacked over."""
    places = stacked_at or (Place(0, 1),)
    offsets = ".".join(str(place.index) for place in places)
    sizes = ".".join(str(place.size) for place in places)
    return f"shard_{offsets}_{sizes}"
