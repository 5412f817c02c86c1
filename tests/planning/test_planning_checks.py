"""What is refused because of the model, before anything starts."""

from dataclasses import replace
from pathlib import Path

import pytest

from mindrl.config import load
from mindrl.errors import RequestError
from mindrl.planning import check_model
from mindrl.weight_maps import Architecture, architecture_of
from tests.config.config_files import minimal_yaml

MODEL = architecture_of(
    {
        "model_type": "qwen2",
        "num_hidden_layers": 4,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 101,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }
)


def problems(folder: Path, model: Architecture, *overrides: str) -> list[str]:
    with pytest.raises(RequestError) as caught:
        check_model(load(minimal_yaml(folder), overrides), model)
    return str(caught.value).splitlines()[1:]


@pytest.mark.parametrize(("actor", "engine"), [(1, 1), (2, 2), (2, 4), (1, 8)])
def test_layouts_that_cut_the_model_evenly_are_accepted(tmp_path: Path, actor: int, engine: int):
    overrides = [f"actor.tensor_model_parallel_size={actor}", f"cluster.devices_per_node={engine}"]
    check_model(load(minimal_yaml(tmp_path), [*overrides, f"rollout.tensor_parallel_size={engine}"]), MODEL)


def test_the_actor_does_not_repeat_key_value_heads(tmp_path: Path):
    (line,) = problems(tmp_path, MODEL, "actor.tensor_model_parallel_size=4", "cluster.devices_per_node=4")
    assert "actor.tensor_model_parallel_size: the model's 2 key-value heads can't be divided among 4" in line


def test_attention_heads_must_divide_among_the_actors_devices(tmp_path: Path):
    overrides = (
        "actor.tensor_model_parallel_size=16",
        "cluster.devices_per_node=16",
        "trainer.global_batch_size=16",
    )
    (line,) = problems(tmp_path, MODEL, *overrides)
    assert "actor.tensor_model_parallel_size: the model's 8 attention heads can't be divided among 16" in line


def test_attention_heads_must_divide_among_the_engines_devices(tmp_path: Path):
    model = replace(MODEL, num_heads=6, num_kv_heads=6)
    (line,) = problems(tmp_path, model, "rollout.tensor_parallel_size=4", "cluster.devices_per_node=4")
    assert "rollout.tensor_parallel_size: the model's 6 attention heads can't be divided among 4" in line


def test_key_value_heads_are_divided_or_repeated_but_never_cut(tmp_path: Path):
    model = replace(MODEL, num_heads=12, num_kv_heads=6)
    layout = ("rollout.tensor_parallel_size=4", "cluster.devices_per_node=4")
    (line,) = problems(tmp_path, model, *layout)
    assert "4 is neither a multiple nor a divisor of the model's 6 key-value heads" in line


def test_the_mlp_must_divide_evenly(tmp_path: Path):
    model = replace(MODEL, intermediate_size=130)
    (line,) = problems(tmp_path, model, "rollout.tensor_parallel_size=4", "cluster.devices_per_node=4")
    assert "rollout.tensor_parallel_size: the model's intermediate_size, 130, can't be divided by 4" in line


def test_layers_must_divide_into_stages(tmp_path: Path):
    model = replace(MODEL, num_layers=5)
    (line,) = problems(tmp_path, model, "actor.pipeline_model_parallel_size=2", "cluster.devices_per_node=2")
    assert "the model's 5 layers can't be divided into 2 stages" in line


def test_layers_may_be_laid_out_unequally_on_purpose(tmp_path: Path):
    layout = ["actor.pipeline_model_parallel_size=2", "cluster.devices_per_node=2"]
    uneven = "actor.transformer_config.num_layers_in_first_pipeline_stage=3"
    check_model(load(minimal_yaml(tmp_path), [*layout, uneven]), replace(MODEL, num_layers=5))


def test_recomputed_pieces_must_divide_every_stage(tmp_path: Path):
    recompute = "recompute_granularity: full, recompute_method: uniform"
    for piece in (1, 2, 4):
        check_model(
            load(
                minimal_yaml(tmp_path),
                [f"actor.transformer_config={{{recompute}, recompute_num_layers: {piece}}}"],
            ),
            MODEL,
        )
    (line,) = problems(tmp_path, MODEL, f"actor.transformer_config={{{recompute}, recompute_num_layers: 3}}")
    assert "recompute_num_layers: stages of 4 layers can't be divided into pieces of 3" in line


def test_the_longest_sequence_must_have_positions(tmp_path: Path):
    (line,) = problems(tmp_path, MODEL, "data.max_response_length=49")
    assert "16 + 49 tokens are more than the model's max_position_embeddings, 64" in line


def test_all_problems_are_reported_at_once(tmp_path: Path):
    model = replace(MODEL, num_layers=5, intermediate_size=3)
    layout = ("actor.pipeline_model_parallel_size=2", "cluster.devices_per_node=2")
    lines = problems(
        tmp_path, model, *layout, "rollout.tensor_parallel_size=2", "data.max_response_length=49"
    )
    assert len(lines) == 3


EXPERTS = architecture_of(
    {
        "model_type": "deepseek_v3",
        "num_hidden_layers": 4,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "vocab_size": 101,
        "max_position_embeddings": 64,
        "n_routed_experts": 12,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 30,
        "first_k_dense_replace": 1,
        "q_lora_rank": None,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
    }
)


def test_a_dense_model_has_no_experts_to_share(tmp_path: Path):
    layout = ("actor.expert_model_parallel_size=2", "cluster.devices_per_node=2")
    (line,) = problems(tmp_path, MODEL, *layout)
    assert "actor.expert_model_parallel_size: found 2, and the model has no experts to share" in line


def test_experts_must_divide_among_the_devices_that_share_them(tmp_path: Path):
    layout = ("actor.expert_model_parallel_size=8", "cluster.devices_per_node=8", "actor.mini_batch_size=8")
    (line,) = problems(tmp_path, EXPERTS, *layout)
    assert "actor.expert_model_parallel_size: the model's 12 experts can't be divided among 8 devices" in line


def test_experts_with_tensor_parallelism_need_sequence_parallelism(tmp_path: Path):
    layout = ("actor.tensor_model_parallel_size=2", "cluster.devices_per_node=2")
    (line,) = problems(tmp_path, EXPERTS, *layout)
    assert (
        "actor.sequence_parallel: false; a model with experts on actor.tensor_model_parallel_size 2" in line
    )
    check_model(load(minimal_yaml(tmp_path), [*layout, "actor.sequence_parallel=true"]), EXPERTS)


def test_the_width_of_experts_must_divide_evenly(tmp_path: Path):
    (line,) = problems(tmp_path, EXPERTS, "rollout.tensor_parallel_size=4", "cluster.devices_per_node=4")
    assert "expert width, 30, and width of shared experts, 30, can't be divided by 4" in line


def test_a_width_that_no_layer_has_does_not_count(tmp_path: Path):
    moe = replace(EXPERTS.experts, dense_layers=frozenset(), intermediate_size=32, shared_intermediate_size=0)
    model = replace(EXPERTS, experts=moe, intermediate_size=127)
    check_model(
        load(minimal_yaml(tmp_path), ["rollout.tensor_parallel_size=4", "cluster.devices_per_node=4"]), model
    )
