"""Parameter counts: of whole models against transformers and the weight maps, of ranks against Megatron-core's own."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DeepseekV3Config,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from mindrl.planning import active_parameters, model_parameters, rank_parameters
from mindrl.planning.parameters import layer_parameters
from mindrl.weight_maps import FAMILIES, architecture_of, read_architecture, weight_map
from tests.distributed import run_distributed
from tests.models.megatron_setup import make_backend
from tests.models.tiny_models import make_config, save_tiny_model

MODELS = Path(__file__).resolve().parents[2] / "configs/model"
SIZES = {
    "vocab_size": 83,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = {"kv_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6}
DEEPSEEK = SIZES | EXPERTS | LATENT | {"n_routed_experts": 8, "first_k_dense_replace": 1}
VARIANTS = {
    "llama": LlamaConfig(**SIZES),
    "llama, tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
    "qwen3_moe": Qwen3MoeConfig(**SIZES, **EXPERTS, num_experts=8, head_dim=16),
    "qwen3_moe, some layers dense": Qwen3MoeConfig(
        **SIZES, **EXPERTS, num_experts=8, decoder_sparse_step=2, mlp_only_layers=[3]
    ),
    "deepseek_v3": DeepseekV3Config(**DEEPSEEK, n_shared_experts=1, q_lora_rank=10),
    "deepseek_v3, queries from the hidden state": DeepseekV3Config(
        **DEEPSEEK, n_shared_experts=2, q_lora_rank=None
    ),
}


def parameters_by_name(config) -> dict[str, int]:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {name: parameter.numel() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_counts_of_every_family_are_those_of_the_transformers_model(variant: str):
    config = VARIANTS[variant]
    counts = model_parameters(architecture_of(config.to_dict()))
    actual = parameters_by_name(config)

    def of(*words: str) -> int:
        return sum(size for name, size in actual.items() if any(word in name for word in words))

    assert counts.total == sum(actual.values())
    assert counts.embedding == of("embed_tokens")
    assert counts.output == of("lm_head")
    assert counts.norms == of("norm")
    assert counts.experts == of("mlp.experts.")
    assert counts.router == of("mlp.gate.")
    assert counts.attention == of("self_attn") - of("self_attn.q_norm", "self_attn.k_norm", "a_layernorm")


@pytest.mark.parametrize("name", sorted(path.parent.name for path in MODELS.glob("*/config.json")))
def test_shipped_configs_describe_the_transformers_model_too(name: str):
    architecture = read_architecture(MODELS / name)
    config = AutoConfig.from_pretrained(MODELS / name)
    assert model_parameters(architecture).total == sum(parameters_by_name(config).values())


PUBLISHED = {
    "qwen2.5-7b": (7.6e9, 6.5e9, None),
    "qwen2.5-32b": (32.8e9, 31.2e9, None),
    "qwen3-8b": (8.2e9, 7.0e9, None),
    "qwen3-30b-a3b": (30.5e9, 29.9e9, 3.3e9),
    "moonlight-16b-a3b": (16e9, 15.3e9, 2.9e9),
}
"""From the model cards: parameters, those outside embedding and output layer, and those that a token uses. Moonlight's
report gives 2.24e9 for the last, without the two vocabulary layers of 0.34e9 each."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_totals_of_the_shipped_configs_are_the_published_ones(name: str):
    total, without_vocabulary, active = PUBLISHED[name]
    architecture = read_architecture(MODELS / name)
    counts = model_parameters(architecture)
    assert counts.total == pytest.approx(total, rel=0.01)
    assert counts.total - counts.embedding - counts.output == pytest.approx(without_vocabulary, rel=0.01)
    assert active_parameters(architecture) == pytest.approx(active or counts.total, rel=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_total_is_the_sum_of_the_weight_maps_shapes(family: str):
    architecture = architecture_of(VARIANTS[family].to_dict())
    assert model_parameters(architecture).total == weight_map(architecture).num_parameters


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_shards_of_a_layer_add_up_to_it_but_for_what_every_rank_holds(variant: str):
    """Replicated are norms, routers, and the down-projections of latent attention."""
    architecture = architecture_of(VARIANTS[variant].to_dict())
    for layer in range(architecture.num_layers):
        whole = layer_parameters(architecture, layer)
        shard = layer_parameters(architecture, layer, tensor_parallel_size=2, expert_parallel_size=4)
        latent, hidden = architecture.latent_attention, architecture.hidden_size
        replicated = 0
        if latent is not None:
            down = latent.kv_lora_rank + latent.qk_rope_head_dim + (latent.q_lora_rank or 0)
            replicated = hidden * down
        assert 2 * shard.attention - replicated == whole.attention
        assert 2 * shard.mlp == whole.mlp
        assert 2 * 4 * shard.experts == whole.experts
        assert (shard.router, shard.norms) == (whole.router, whole.norms)


def numel_of_my_shard(model: str, layout: dict) -> int:
    backend, _, _ = make_backend(make_config(Path(model), 2, **layout))
    return sum(parameter.numel() for parameter in backend._model.parameters())


@pytest.mark.parametrize("family", ["qwen2-tied", "qwen3-untied", "llama-untied"])
@pytest.mark.parametrize(
    "layout",
    [
        {"tensor": 2},
        {"pipeline": 2},
        {"pipeline": 2, "transformer_config": {"num_layers_in_first_pipeline_stage": 3}},
    ],
    ids=["tensor parallel", "pipeline", "uneven pipeline"],
)
def test_a_rank_holds_what_megatron_gives_it(tmp_path: Path, family: str, layout: dict):
    model = save_tiny_model(tmp_path, family)
    built = run_distributed(numel_of_my_shard, 2, str(model), layout)
    actor = make_config(model, 2, **layout).actor
    by_stage = [counts.total for counts in rank_parameters(read_architecture(model), actor)]
    assert built == (by_stage if "pipeline" in layout else by_stage * 2)
