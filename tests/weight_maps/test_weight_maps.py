"""Every family's map agrees with the files that transformers writes, and tensors survive the way there and back."""

import subprocess
import sys
import time

import pytest
import torch
from families import MODELS, Model, write

from mindrl.errors import RequestError
from mindrl.weight_maps import architecture_of, extra_state_keys, weight_map

models = pytest.mark.parametrize("name", MODELS)
tied_or_not = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of a kind, written once."""
    found: dict[tuple[str, bool], Model] = {}

    def make(name: str, tied: bool = False) -> Model:
        if (name, tied) not in found:
            found[name, tied] = write(tmp_path_factory.mktemp("model"), name, tied=tied)
        return found[name, tied]

    return make


@models
@tied_or_not
def test_the_map_names_exactly_the_tensors_in_the_files_that_transformers_writes(model, name, tied):
    weights, tensors = model(name, tied).map, model(name, tied).tensors
    expected = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name not in weights.copies}
    assert {source.name: source.shape for source in weights.hf_tensors} == expected
    assert weights.copies.keys() <= tensors.keys()


@models
@tied_or_not
def test_merging_and_splitting_gives_back_every_tensor(model, name, tied):
    weights, tensors = model(name, tied).map, model(name, tied).tensors
    result = {}
    for rule in weights.rules:
        full = rule.merge([tensors[source.name] for source in rule.hf])
        assert tuple(full.shape) == rule.megatron_shape
        result |= dict(rule.split(full))
    result |= {copy: result[original] for copy, original in weights.copies.items()}
    assert result.keys() == tensors.keys()
    assert all(torch.equal(result[name], tensors[name]) for name in tensors)
    learned = [
        t for name, t in tensors.items() if name not in weights.copies and "correction_bias" not in name
    ]
    assert weights.num_parameters == sum(tensor.numel() for tensor in learned)


@models
@pytest.mark.parametrize("size", [1, 2])
def test_sharding_and_unsharding_gives_back_the_full_tensor(model, name, size):
    for rule in model(name).map.rules:
        rows, *columns = rule.megatron_shape
        full = torch.randn(rows + rule.pads_vocabulary * (rows % size), *columns)
        shards = [rule.shard(full, rank, size) for rank in range(size)]
        assert torch.equal(rule.unshard(shards), full), rule.megatron_name


@models
def test_names_and_places_in_checkpoints_are_each_one_tensors_alone(model, name):
    weights = model(name).map
    places = [
        (key, rule.stacked_at) for rule in weights.rules for key in (rule.checkpoint_key, *rule.other_keys)
    ]
    assert len(set(places)) == len(places)
    assert len(weights.by_megatron_name) == len(weights.rules)
    assert len(weights.by_hf_name) == len(weights.hf_tensors)


def test_a_rank_of_tensor_parallelism_gets_whole_groups_of_query_key_and_value(model):
    rule = model("llama").map.by_megatron_name["decoder.layers.1.self_attention.linear_qkv.weight"]
    query, key, value = (torch.randn(source.shape) for source in rule.hf)
    second = rule.shard(rule.merge([query, key, value]), rank=1, size=2)
    assert torch.equal(second, torch.cat([query[32:64], key[16:32], value[16:32]]))


def test_a_rank_of_tensor_parallelism_gets_its_part_of_gate_and_of_up(model):
    rule = model("llama").map.by_hf_name["model.layers.0.mlp.up_proj.weight"]
    gate, up = (torch.randn(source.shape) for source in rule.hf)
    second = rule.shard(rule.merge([gate, up]), rank=1, size=2)
    assert torch.equal(second, torch.cat([gate[24:], up[24:]]))


def test_vocabulary_padding_is_cut_off_and_padding_elsewhere_is_an_error(model):
    weights = model("qwen2", tied=True).map
    embedding = torch.randn(61, 32)
    padded = torch.cat([embedding, torch.full((3, 32), 9.0)])
    [(name, tensor)] = weights.by_megatron_name["embedding.word_embeddings.weight"].split(padded)
    assert name == "model.embed_tokens.weight"
    assert torch.equal(tensor, embedding)
    with pytest.raises(ValueError, match=r"final_layernorm.*\(33,\)"):
        weights.by_megatron_name["decoder.final_layernorm.weight"].split(torch.zeros(33))


def test_a_cut_that_does_not_divide_is_an_error(model):
    rule = model("llama").map.by_megatron_name["embedding.word_embeddings.weight"]
    with pytest.raises(ValueError, match="can't be cut into 4 equal parts"):
        rule.shard(torch.zeros(61, 32), 0, 4)


def test_weight_maps_do_not_import_torch():
    code = "import sys, mindrl.weight_maps; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_layers_for_multi_token_prediction_are_left_out_on_purpose_unless_asked_for(model):
    kept = model("deepseek_v3 with mtp")
    dropped = weight_map(kept.architecture)
    assert [name for name in kept.tensors if dropped.leaves_out(name)] == [
        name for name in kept.tensors if name.startswith("model.layers.3.")
    ]
    assert not any(kept.map.leaves_out(name) for name in kept.tensors)
    assert {source.name for source in dropped.hf_tensors} == {
        name for name in kept.tensors if not dropped.leaves_out(name)
    }
    assert not weight_map(model("moonlight").architecture).leaves_out("model.layers.3.enorm.weight")


def test_multi_token_prediction_that_a_model_lacks_is_refused(model):
    with pytest.raises(RequestError, match="deepseek_v3 model has no layers for multi-token prediction"):
        weight_map(model("moonlight").architecture, mtp=True)


def test_the_copies_in_mtp_layers_are_of_the_embedding_and_of_the_output_layer(model):
    for tied in (True, False):
        found = model("deepseek_v3 with mtp", tied)
        assert {copy.removeprefix("model.layers.3."): of for copy, of in found.map.copies.items()} == {
            "embed_tokens.weight": "model.embed_tokens.weight",
            "shared_head.head.weight": "model.embed_tokens.weight" if tied else "lm_head.weight",
        }
        for copy, original in found.map.copies.items():
            assert torch.equal(found.tensors[copy], found.tensors[original])


def test_a_routers_bias_keeps_its_type_and_is_no_parameter(model):
    rule = model("moonlight").map.by_megatron_name["decoder.layers.1.mlp.router.expert_bias"]
    assert rule.keeps_dtype
    assert [rule.megatron_name for rule in model("moonlight").map.rules if rule.keeps_dtype] == [
        f"decoder.layers.{layer}.mlp.router.expert_bias" for layer in (1, 2)
    ]


def test_an_experts_matrix_says_whose_it_is_and_where_it_is_stacked(model):
    alike = model("qwen3_moe").map.by_megatron_name["decoder.layers.1.mlp.experts.3.linear_fc2.weight"]
    assert alike.expert == 3
    assert alike.checkpoint_key == "decoder.layers.mlp.experts.experts.linear_fc2.weight"
    assert alike.checkpoint_shape == (2, 4, 32, 24)
    mixed = model("moonlight").map.by_megatron_name["decoder.layers.1.mlp.experts.7.linear_fc1.weight"]
    assert mixed.checkpoint_key == "decoder.layers.1.mlp.experts.experts.linear_fc1.weight"
    assert mixed.checkpoint_shape == (8, 48, 32)


def test_the_map_of_a_model_of_671_billion_parameters_takes_a_second_at_most():
    started = time.process_time()
    weights = weight_map(architecture_of(DEEPSEEK_V3), mtp=True)
    assert len(weights.hf_tensors) > 46_000
    assert len(weights.by_hf_name) == len(weights.hf_tensors)
    assert len(extra_state_keys(weights)) > 30_000
    assert time.process_time() - started < 3
    assert weight_map(weights.architecture).num_parameters == 671_026_404_352
    # 14 billion more, of which 0.9 each are copies of embedding and output layer (DeepSeek-V3's README_WEIGHTS)
    assert 11.5e9 < weights.num_parameters - 671_026_404_352 < 11.7e9
    assert len(weights.copies) == 2


DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 61,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_attention_heads": 128,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "num_nextn_predict_layers": 1,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "hidden_act": "silu",
    "attention_bias": False,
    "rope_theta": 10000,
    "rope_scaling": {
        "type": "yarn",
        "factor": 40,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
"""As published, without `quantization_config`."""
