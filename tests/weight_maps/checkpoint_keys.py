"""Where a map and the sharded state of Megatron-core's model differ. Run as a program, of models with TransformerEngine
(a stand-in for it), which has to be there before Megatron-core is imported."""

import json
import sys
import tempfile

import torch
from families import MODELS, full_map

from mindrl.weight_maps import WeightMap, extra_state_keys


def problems_of_all_models(layers: str) -> dict[str, list[str]]:
    """Of each of `MODELS`."""
    return {name: problems_of(full_map(name, tied=name == "qwen2"), layers) for name in MODELS}


def problems_of(weights: WeightMap, layers: str) -> list[str]:
    """What the model asks for that the map does not write in that shape; what it writes and nobody asks for; names of
    parameters that differ."""
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, apply_factories
    from megatron_models import build

    model = build(weights.architecture, layers)
    state = model.sharded_state_dict()
    apply_factories(state)
    asked = list(nested_values(state))
    tensors = {item.key: tuple(item.global_shape) for item in asked if isinstance(item, ShardedTensor)}
    objects = {item.unique_key for item in asked if isinstance(item, ShardedObject)}
    written = {
        key: rule.checkpoint_shape
        for rule in weights.rules
        for key in (rule.checkpoint_key, *rule.other_keys)
    }
    problems = [f"{key} {shape}" for key, shape in tensors.items() if written.get(key) != shape]
    problems += sorted(objects - set(extra_state_keys(weights)))
    problems += [
        f"{rule.checkpoint_key} is asked for by nobody"
        for rule in weights.rules
        if not tensors.keys() & {rule.checkpoint_key, *rule.other_keys}
    ]
    if layers == "megatron":
        problems += _names_that_differ(weights, model)
    if layers == "transformer_engine":
        problems += _states_that_nobody_asks_for(weights, objects)
    return problems


def _names_that_differ(weights: WeightMap, model: torch.nn.Module) -> list[str]:
    """Between the map and the model's parameters and buffers; Megatron's experts are `local_experts` of a list."""
    names = {
        name.replace(".experts.local_experts.", ".experts.")
        for name in model.state_dict()
        if not name.endswith("_extra_state")
    }
    return sorted(names ^ weights.by_megatron_name.keys())


def _states_that_nobody_asks_for(weights: WeightMap, objects: set[str]) -> list[str]:
    """But for core attention, which other versions of Megatron-core ask for."""
    return sorted(key for key in set(extra_state_keys(weights)) - objects if "core_attention" not in key)


if __name__ == "__main__":
    import transformer_engine_stand_in

    transformer_engine_stand_in.install()
    with tempfile.TemporaryDirectory() as directory:
        torch.distributed.init_process_group(
            "cpu:gloo", init_method=f"file://{directory}/rendezvous", rank=0, world_size=1
        )
        json.dump(problems_of_all_models("transformer_engine"), sys.stdout)
        torch.distributed.destroy_process_group()
