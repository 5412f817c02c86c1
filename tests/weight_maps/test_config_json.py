"""What of a config.json is read, and what is refused by name."""

from functools import partial

import pytest
from megatron.core.models.common.embeddings.yarn_rotary_pos_embedding import (
    _yarn_get_concentration_factor,
    _yarn_get_mscale,
)
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
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
LATENT = {
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}
EXPERT_SIZES = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "n_group": 1,
    "topk_group": 1,
}
CONFIGS = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "deepseek_v3": partial(DeepseekV3Config, **LATENT, **EXPERT_SIZES),
}


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
        ("qwen3", {"attention_bias": True}, "attention_bias"),
        ("llama", {"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ("llama", {"num_key_value_heads": 3}, "4 attention heads and 3 key-value heads"),
        ("llama", {"hidden_size": None}, "hidden_size is None"),
        ("llama", {"dtype": "float8"}, "dtype is 'float8'"),
    ],
)
def test_what_a_map_would_get_silently_wrong_is_refused_by_name_for_conversion_too(family, override, reason):
    config = a_config(family) | override
    for weights_only in (False, True):
        with pytest.raises(RequestError, match=reason):
            architecture_of(config, weights_only=weights_only)


LLAMA3_WITHOUT_CONSTANTS = {"rope_type": "llama3", "factor": 8.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    ("family", "override", "reason"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window"),
        (
            "qwen2",
            {"layer_types": None, "use_sliding_window": True, "max_window_layers": 1},
            "sliding-window",
        ),
        ("llama", {"rope_parameters": YARN}, "'yarn'"),
        ("llama", {"rope_parameters": LLAMA3_WITHOUT_CONSTANTS}, "low_freq_factor"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "'linear'"),
        ("llama", {"partial_rotary_factor": 0.5}, "a part of each head \\(0.5\\)"),
        ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func 'softmax'"),
        ("deepseek_v3", {"rope_interleave": False}, "rope_interleave False"),
        ("deepseek_v3", {"rope_parameters": YARN | {"attention_factor": 1.1}}, "'attention_factor': 1.1"),
        ("deepseek_v3", {"rope_parameters": YARN | {"truncate": False}}, "'truncate': False"),
        ("deepseek_v3", {"rope_parameters": YARN | {"mscale_all_dim": 1.0}}, "mscale_all_dim and no mscale"),
        ("deepseek_v3", {"rope_parameters": YARN | {"factor": None}}, "without factor"),
    ],
)
def test_what_decides_the_forward_pass_only_is_refused_by_name_unless_weights_are_all_that_is_wanted(
    family, override, reason
):
    config = a_config(family) | override
    with pytest.raises(RequestError, match=f"{reason}.*not supported by training"):
        architecture_of(config)
    architecture = architecture_of(config, weights_only=True)
    assert len(architecture.unsupported) == 1
    plain = architecture_of(a_config(family))
    assert weight_map(architecture).rules == weight_map(plain).rules


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({}, {"mscale": 1.0, "mscale_all_dim": 0.0}),
        ({"mscale": 0.7, "mscale_all_dim": 0.8}, {"mscale": 0.7, "mscale_all_dim": 0.8}),
        ({"mscale": 0.7}, {"mscale": 1.0, "mscale_all_dim": 0.0}),
        ({"mscale": 0.7, "mscale_all_dim": 0}, {"mscale": 1.0, "mscale_all_dim": 0.0}),
        ({"beta_fast": 16, "beta_slow": 2, "truncate": True}, {"beta_fast": 16.0, "beta_slow": 2.0}),
    ],
)
def test_yarn_of_latent_attention_is_read_with_the_defaults_of_transformers(given, read):
    """transformers' factor of cosines and sines and its factor of scores come out of what was read, by Megatron's
    formulas."""
    config = a_config("deepseek_v3", rope_parameters=YARN | {"rope_theta": 5e4} | given)
    scaling = architecture_of(config).rope_scaling
    defaults = {"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 0.0}
    assert scaling == YARN | defaults | read
    model = DeepseekV3ForCausalLM(DeepseekV3Config(**config))
    rotary, attention = model.model.rotary_emb, model.model.layers[0].self_attn
    concentration = _yarn_get_concentration_factor(4.0, scaling["mscale"], scaling["mscale_all_dim"])
    assert rotary.attention_scaling == pytest.approx(concentration, rel=1e-12)
    score = _yarn_get_mscale(4.0, scaling["mscale_all_dim"]) ** 2 * attention.qk_head_dim**-0.5
    assert attention.scaling == pytest.approx(score, rel=1e-12)


def test_yarn_in_the_style_of_published_configs_is_the_same():
    """`rope_scaling` with `type`, and `rope_theta` beside it (DeepSeek-V3)."""
    config = a_config("deepseek_v3")
    old = {key: value for key, value in config.items() if key != "rope_parameters"}
    scaling = {
        "type": "yarn",
        "factor": 4,
        "original_max_position_embeddings": 16,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    }
    read = architecture_of(old | {"rope_theta": 10000, "rope_scaling": scaling})
    new = {"rope_theta": 10000.0, "rope_type": "yarn"} | {k: v for k, v in scaling.items() if k != "type"}
    assert read == architecture_of(config | {"rope_parameters": new})
    assert read.rope_scaling["mscale_all_dim"] == 1.0


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
        ("deepseek_v3", {"topk_method": "greedy"}, "topk_method is 'greedy'"),
        ("deepseek_v3", {"kv_lora_rank": None}, "kv_lora_rank is None"),
        ("deepseek_v3", {"n_shared_experts": -1}, "n_shared_experts is -1"),
        ("deepseek_v3", {"n_routed_experts": 10**9}, "n_routed_experts is 1000000000; no model has more"),
        ("deepseek_v3", {"num_nextn_predict_layers": 10**9}, "num_nextn_predict_layers is 1000000000"),
        ("qwen3_moe", {"num_experts": 10**9}, "num_experts is 1000000000; no model has more"),
        ("qwen3_moe", {"mlp_only_layers": 3}, "mlp_only_layers is 3"),
        ("qwen3_moe", {"norm_topk_prob": "yes"}, "norm_topk_prob is 'yes'"),
        ("qwen3_moe", {"num_experts_per_tok": 9}, "num_experts_per_tok is 9, and there are 8 experts"),
    ],
)
def test_what_would_be_misread_of_experts_is_refused_by_name(family, override, reason):
    with pytest.raises(RequestError, match=reason):
        architecture_of(EXPERTS[family] | override)
