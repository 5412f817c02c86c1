"""Every family's map agrees with transformers' own models, and tensors survive the way there and back."""

import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from mindrl.errors import RequestError
from mindrl.weight_maps import architecture_of, weight_map

SIZES = {
    "vocab_size": 62,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
}
CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
families = pytest.mark.parametrize("family", CONFIGS)
tied_or_not = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def a_config(family: str, **overrides) -> dict:
    return CONFIGS[family](**(SIZES | overrides)).to_dict()


def parameters_of(family: str, tied: bool) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_config(CONFIGS[family](tie_word_embeddings=tied, **SIZES))
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def a_map(family: str, tied: bool):
    return weight_map(architecture_of(a_config(family, tie_word_embeddings=tied)))


@families
@tied_or_not
def test_the_map_names_exactly_the_parameters_of_the_transformers_model(family, tied):
    expected = {name: tuple(tensor.shape) for name, tensor in parameters_of(family, tied).items()}
    assert {source.name: source.shape for source in a_map(family, tied).hf_tensors} == expected


@families
@tied_or_not
def test_merging_and_splitting_gives_back_every_tensor(family, tied):
    parameters = parameters_of(family, tied)
    weights = a_map(family, tied)
    result = {}
    for rule in weights.rules:
        full = rule.merge([parameters[source.name] for source in rule.hf])
        assert tuple(full.shape) == rule.megatron_shape
        result |= dict(rule.split(full))
    assert result.keys() == parameters.keys()
    assert all(torch.equal(result[name], parameters[name]) for name in parameters)
    assert weights.num_parameters == sum(tensor.numel() for tensor in parameters.values())


@families
@pytest.mark.parametrize("size", [1, 2])
def test_sharding_and_unsharding_gives_back_the_full_tensor(family, size):
    for rule in a_map(family, tied=False).rules:
        full = torch.randn(rule.megatron_shape)
        shards = [rule.shard(full, rank, size) for rank in range(size)]
        assert torch.equal(rule.unshard(shards), full), rule.megatron_name


def test_a_rank_of_tensor_parallelism_gets_whole_groups_of_query_key_and_value():
    rule = a_map("llama", tied=False).by_megatron_name["decoder.layers.1.self_attention.linear_qkv.weight"]
    query, key, value = (torch.randn(source.shape) for source in rule.hf)
    second = rule.shard(rule.merge([query, key, value]), rank=1, size=2)
    assert torch.equal(second, torch.cat([query[32:64], key[16:32], value[16:32]]))


def test_a_rank_of_tensor_parallelism_gets_its_part_of_gate_and_of_up():
    rule = a_map("llama", tied=False).by_hf_name["model.layers.0.mlp.up_proj.weight"]
    gate, up = (torch.randn(source.shape) for source in rule.hf)
    second = rule.shard(rule.merge([gate, up]), rank=1, size=2)
    assert torch.equal(second, torch.cat([gate[24:], up[24:]]))


def test_vocabulary_padding_is_cut_off_and_padding_elsewhere_is_an_error():
    weights = a_map("qwen2", tied=True)
    embedding = torch.randn(62, 32)
    padded = torch.cat([embedding, torch.full((2, 32), 9.0)])
    [(name, tensor)] = weights.by_megatron_name["embedding.word_embeddings.weight"].split(padded)
    assert name == "model.embed_tokens.weight"
    assert torch.equal(tensor, embedding)
    with pytest.raises(ValueError, match=r"final_layernorm.*\(33,\)"):
        weights.by_megatron_name["decoder.final_layernorm.weight"].split(torch.zeros(33))


def test_a_cut_that_does_not_divide_is_an_error():
    rule = a_map("llama", tied=False).by_megatron_name["embedding.word_embeddings.weight"]
    with pytest.raises(ValueError, match="can't be cut into 4 equal parts"):
        rule.shard(torch.zeros(62, 32), 0, 4)


def test_config_files_of_transformers_4_and_5_give_the_same_architecture():
    new = a_config("llama")
    old = {key: value for key, value in new.items() if key not in ("rope_parameters", "dtype")}
    old |= {"rope_theta": 10000.0, "rope_scaling": None, "torch_dtype": "float32"}
    assert architecture_of(old) == architecture_of(new)


def test_llama_3_rope_scaling_is_read_from_either_style():
    scaling = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    }
    base = {key: value for key, value in a_config("llama").items() if key != "rope_parameters"}
    old = architecture_of(base | {"rope_theta": 5e5, "rope_scaling": scaling})
    new = architecture_of(base | {"rope_parameters": scaling | {"rope_theta": 5e5}})
    assert old == new
    assert (new.rope_theta, new.rope_scaling) == (5e5, {"rope_type": "llama3", "factor": 8.0})


@pytest.mark.parametrize(
    ("family", "override", "reason"),
    [
        ("llama", {"attention_bias": True}, "attention_bias"),
        ("llama", {"mlp_bias": True}, "mlp_bias"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window"),
        (
            "qwen2",
            {"layer_types": None, "use_sliding_window": True, "max_window_layers": 1},
            "sliding-window",
        ),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ("llama", {"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ("llama", {"num_key_value_heads": 3}, "4 attention heads and 3 key-value heads"),
        ("llama", {"hidden_size": None}, "hidden_size is None"),
        ("llama", {"dtype": "float8"}, "dtype is 'float8'"),
    ],
)
def test_what_a_map_would_get_silently_wrong_is_refused_by_name(family, override, reason):
    with pytest.raises(RequestError, match=reason):
        architecture_of(a_config(family) | override)


def test_a_sliding_window_that_no_layer_uses_is_accepted():
    config = a_config("qwen2") | {"layer_types": None, "use_sliding_window": True, "max_window_layers": 2}
    assert architecture_of(config).num_layers == 2


def test_an_unknown_family_is_refused_naming_those_there_are():
    with pytest.raises(RequestError, match=r"'gpt2'.*llama, qwen2, qwen3"):
        architecture_of({"model_type": "gpt2"})


def test_weight_maps_do_not_import_torch():
    code = "import sys, mindrl.weight_maps; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
WITHOUT_MAP = {
    "qwen3_moe": Qwen3MoeConfig(**SIZES, **MOE, num_experts=8).to_dict(),
    "deepseek_v3": DeepseekV3Config(**(SIZES | MOE | {"n_routed_experts": 8, "q_lora_rank": None})).to_dict(),
}


@pytest.mark.parametrize(("family", "title"), [("qwen3_moe", "Qwen3-MoE"), ("deepseek_v3", "DeepSeek-V3")])
def test_a_family_without_a_map_is_read_and_refused_by_name_where_a_map_is_needed(family, title):
    architecture = architecture_of(WITHOUT_MAP[family])
    assert architecture.experts.num_experts == 8
    with pytest.raises(RequestError, match=rf"{title} .*`mindrl plan` works.*llama, qwen2, qwen3"):
        weight_map(architecture)


def test_code_of_the_models_own_and_its_extra_heads_are_ignored():
    own = {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}, "num_nextn_predict_layers": 1}
    config = WITHOUT_MAP["deepseek_v3"]
    assert architecture_of(config | own) == architecture_of(config)


@pytest.mark.parametrize(
    ("family", "override", "reason"),
    [
        ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func is 'softmax'"),
        ("deepseek_v3", {"topk_method": "greedy"}, "topk_method is 'greedy'"),
        ("deepseek_v3", {"kv_lora_rank": None}, "kv_lora_rank is None"),
        ("deepseek_v3", {"n_shared_experts": -1}, "n_shared_experts is -1"),
        ("qwen3_moe", {"mlp_only_layers": 3}, "mlp_only_layers is 3"),
        ("qwen3_moe", {"norm_topk_prob": "yes"}, "norm_topk_prob is 'yes'"),
        ("qwen3_moe", {"num_experts_per_tok": 9}, "num_experts_per_tok is 9, and there are 8 experts"),
    ],
)
def test_what_would_be_misread_of_experts_is_refused_by_name(family, override, reason):
    with pytest.raises(RequestError, match=reason):
        architecture_of(WITHOUT_MAP[family] | override)
