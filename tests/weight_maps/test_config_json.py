"""What of a config.json is read, and what is refused by name."""

import pytest
from transformers import DeepseekV3Config, LlamaConfig, Qwen2Config, Qwen3Config, Qwen3MoeConfig

from mindrl.errors import RequestError
from mindrl.weight_maps import architecture_of

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


def a_config(family: str, **overrides) -> dict:
    return CONFIGS[family](**(SIZES | overrides)).to_dict()


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


MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
EXPERTS = {
    "qwen3_moe": Qwen3MoeConfig(**SIZES, **MOE, num_experts=8).to_dict(),
    "deepseek_v3": DeepseekV3Config(**(SIZES | MOE | {"n_routed_experts": 8, "q_lora_rank": None})).to_dict(),
}


@pytest.mark.parametrize("family", EXPERTS)
def test_experts_are_read(family):
    architecture = architecture_of(EXPERTS[family])
    assert architecture.experts.num_experts == 8
    assert architecture.experts.experts_per_token == 2


def test_code_of_the_models_own_is_ignored():
    own = {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}
    config = EXPERTS["deepseek_v3"]
    assert architecture_of(config | own) == architecture_of(config)
    assert architecture_of(config | {"num_nextn_predict_layers": 1}).num_mtp_layers == 1


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
        architecture_of(EXPERTS[family] | override)
