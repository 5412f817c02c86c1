"""Checkpoints made of the maps hold what Megatron-core's own models ask for: keys, shapes and extra states."""

import pytest
from families import MODELS, full_map
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, apply_factories
from megatron_models import Layers, build

from mindrl.weight_maps import WeightMap, extra_state_keys
from tests.distributed import run_distributed


@pytest.mark.parametrize("layers", ["megatron", "project"])
def test_every_key_that_a_model_asks_for_is_written_with_the_shape_it_has_there(layers):
    [problems] = run_distributed(problems_of_all_models, 1, layers)
    assert problems.keys() == MODELS.keys()
    assert {name: found for name, found in problems.items() if found} == {}


def problems_of_all_models(layers: Layers) -> dict[str, list[str]]:
    return {name: problems_of(full_map(name, tied=name == "qwen2"), layers) for name in MODELS}


def problems_of(weights: WeightMap, layers: Layers) -> list[str]:
    """Where a model's sharded state and the map differ."""
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
    # A tensor that no model asks for, under none of its keys, is one too many.
    problems += [
        f"{rule.checkpoint_key} is asked for by nobody"
        for rule in weights.rules
        if not tensors.keys() & {rule.checkpoint_key, *rule.other_keys}
    ]
    if layers == "megatron":
        problems += names_that_differ(weights, model)
    return problems


def names_that_differ(weights: WeightMap, model) -> list[str]:
    """Between the map and the model's parameters and buffers; Megatron's experts are `local_experts` of a list."""
    names = {
        name.replace(".experts.local_experts.", ".experts.")
        for name in model.state_dict()
        if not name.endswith("_extra_state")
    }
    return sorted(names ^ weights.by_megatron_name.keys())


def test_extra_states_are_asked_for_where_a_layer_lies_in_its_stack_and_an_expert_in_its():
    alike = extra_state_keys(full_map("qwen3_moe"))
    assert "decoder.layers.self_attention.linear_qkv._extra_state/shard_1_2" in alike
    assert "decoder.layers.pre_mlp_layernorm._extra_state/shard_0_2" in alike
    assert "decoder.layers.mlp.experts.experts.linear_fc1._extra_state/shard_1.3_2.4" in alike
    mixed = extra_state_keys(full_map("deepseek_v3 with mtp"))
    assert "decoder.layers.2.mlp.experts.experts.linear_fc2._extra_state/shard_7_8" in mixed
    assert "decoder.layers.0.mlp.linear_fc1._extra_state/shard_0_1" in mixed
    assert "mtp.layers.0.eh_proj._extra_state/shard_0_1" in mixed
    assert not [
        key for key in (*alike, *mixed) if "router" in key or "embedding" in key or "output_layer" in key
    ]
