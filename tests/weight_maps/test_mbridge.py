"""The maps agree with PyPI's mbridge: names, merged and split tensors, and parts of tensor-parallel ranks.

It is no dependency of the project. To run these tests, in the checkout (it needs no TransformerEngine, which it only
names)::

    pip install --no-deps --target /tmp/mbridge -r requirements/mbridge.txt
    PYTHONPATH=/tmp/mbridge pytest tests/weight_maps/test_mbridge.py
"""

import re
from typing import Any

import pytest
import torch
from megatron.core.transformer import MLATransformerConfig
from transformers import AutoConfig

from mindrl.weight_maps import TensorRule, architecture_of, weight_map
from tests.checkpoint.hf_models import FAMILIES, SIZES

mbridge = pytest.importorskip("mbridge", reason="mbridge is not installed, see the head of this file")

LAYER = re.compile(r"(decoder|mtp)\.layers\.\d+\.(transformer_layer\.)?")


@pytest.fixture(autouse=True)
def mbridge_for_this_megatron(monkeypatch):
    """mbridge 0.15.1 gives `MLATransformerConfig` a field that Megatron-core 0.16.1 calls by another name, and a bridge
    of a tied model changes the mapping of its class for all that follow."""

    def config(max_position_embeddings: int, **settings: Any) -> MLATransformerConfig:
        return MLATransformerConfig(original_max_position_embeddings=max_position_embeddings, **settings)

    for model_type in ("llama", "qwen2", "qwen3", "qwen3_moe", "deepseek_v3"):
        bridge = mbridge.core.bridge._MODEL_REGISTRY[model_type]
        monkeypatch.setattr(bridge, "_DIRECT_MAPPING", dict(bridge._DIRECT_MAPPING))
    monkeypatch.setattr(
        mbridge.core.bridge._MODEL_REGISTRY["deepseek_v3"], "TransformerConfigClass", staticmethod(config)
    )


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_mapped_as_mbridge_maps_it(family: str, tied: bool):
    model_type, settings = FAMILIES[family]
    num_rules = agreements(model_type, settings | {"tie_word_embeddings": tied}, mtp=False)
    assert num_rules >= 7 * settings.get("num_hidden_layers", SIZES["num_hidden_layers"])


def test_a_layer_for_multi_token_prediction_is_mapped_as_mbridge_maps_it():
    """Which knows DeepSeek-V3's number of layers only."""
    model_type, settings = FAMILIES["deepseek_v3"]
    settings = settings | {
        "num_hidden_layers": 61,
        "num_nextn_predict_layers": 1,
        "tie_word_embeddings": False,
    }
    assert agreements(model_type, settings, mtp=True) > 1000


def agreements(model_type: str, settings: dict[str, Any], *, mtp: bool) -> int:
    """Compare every rule; how many there are."""
    config = AutoConfig.for_model(model_type, **SIZES | settings)
    weights = weight_map(architecture_of(config.to_dict()), mtp=mtp)
    config.rope_theta = 10000.0  # where transformers 4 has it, for which mbridge is written
    if not mtp and model_type == "deepseek_v3":
        config.num_nextn_predict_layers = 0
    bridge = mbridge.AutoBridge.from_config(
        config, dtype=torch.float32, parallel_states=mbridge.core.parallel_states.ParallelStates()
    )
    for rule in weights.rules:
        name = parameter_name(rule)
        sources = [torch.randn(source.shape) for source in rule.hf]
        full = rule.merge(sources)
        assert bridge._weight_name_mapping_mcore_to_hf(name) == [source.name for source in rule.hf]
        assert torch.equal(bridge._weight_to_mcore_format(name, sources), full), name
        names, tensors = bridge._weight_to_hf_format(name, full)
        if len(names) > len(rule.hf):  # with the copies that MTP layers have
            assert dict.fromkeys(names[1:], names[0]) == {
                copy: original for copy, original in weights.copies.items() if original == names[0]
            }
            names, tensors = names[:1], tensors[:1]
        for (name_here, tensor_here), there, tensor in zip(rule.split(full), names, tensors, strict=True):
            assert (name_here, tensor_here.shape) == (there, tensor.shape)
            assert torch.equal(tensor_here, tensor)
        if not rule.pads_vocabulary:
            shards = [rule.shard(full, rank, 2) for rank in range(2)]
            for here, there in zip(
                shards, bridge._weight_split_across_tp(name, full, shards[0], 2), strict=True
            ):
                assert torch.equal(here, there), name
    return len(weights.rules)


def parameter_name(rule: TensorRule) -> str:
    """What TransformerEngine's layers call the tensor, which are the ones that mbridge knows."""
    layer = LAYER.match(rule.megatron_name)
    if layer is None or (layer[1] == "mtp" and layer[2] is None):
        return rule.megatron_name
    name = layer[0] + rule.checkpoint_key.removeprefix(layer[0]).removeprefix("decoder.layers.")
    if rule.expert is None:
        return name
    return f"{name.replace('mlp.experts.experts.', 'mlp.experts.')}{rule.expert}"
