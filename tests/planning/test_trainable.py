"""What can be planned and not be trained is refused by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mindrl.config import load
from mindrl.errors import RequestError
from mindrl.planning import check_model, check_trainable
from mindrl.weight_maps import Architecture
from tests.config.config_files import minimal_yaml
from tests.planning.test_planning_checks import EXPERTS, MODEL

SOFTMAX: dict[str, Any] = {"scoring": "softmax", "score_correction_bias": False}


def with_router(**settings: Any) -> Architecture:
    return replace(EXPERTS, experts=replace(EXPERTS.experts, **settings))


def refusal(folder: Path, model: Architecture, *overrides: str) -> str:
    """The sentence, where the layout itself is accepted."""
    config = load(minimal_yaml(folder), overrides)
    check_model(config, model)
    with pytest.raises(RequestError) as caught:
        check_trainable(config, model)
    return str(caught.value)


def test_models_of_both_kinds_are_accepted(tmp_path: Path):
    for model in (MODEL, EXPERTS):
        check_trainable(load(minimal_yaml(tmp_path)), model)


def test_sequences_are_not_shared_yet(tmp_path: Path):
    layout = ("actor.context_parallel_size=2", "cluster.devices_per_node=2")
    assert "context_parallel_size: found 2; sizes above 1 are not in training yet" in refusal(
        tmp_path, MODEL, *layout
    )


@pytest.mark.parametrize(
    "router",
    [
        {"normalize_top_k": False},
        {"experts_per_token": 1},
        {**SOFTMAX, "experts_per_token": 1},
    ],
    ids=str,
)
def test_a_router_that_megatron_does_not_compute_is_refused(tmp_path: Path, router: dict[str, Any]):
    assert "is a router that Megatron-core does not compute" in refusal(tmp_path, with_router(**router))


@pytest.mark.parametrize(
    "router",
    [
        {**SOFTMAX, "normalize_top_k": True},
        {**SOFTMAX, "normalize_top_k": False},
        {**SOFTMAX, "normalize_top_k": False, "experts_per_token": 1},
        {"normalize_top_k": False, "experts_per_token": 1},
        {"num_groups": 4, "groups_per_token": 1},
        {"num_groups": 4, "groups_per_token": 4, "experts_per_token": 3},
        {"num_groups": 4, "groups_per_token": 2, "experts_per_token": 5},
    ],
    ids=str,
)
def test_a_router_that_megatron_computes_is_accepted(tmp_path: Path, router: dict[str, Any]):
    check_trainable(load(minimal_yaml(tmp_path)), with_router(**router))


def test_groups_of_experts_that_megatron_would_choose_by_other_scores_are_refused(tmp_path: Path):
    router = with_router(num_groups=4, groups_per_token=2, experts_per_token=2)
    assert "would choose groups by their best 1 experts and not by 2" in refusal(tmp_path, router)


def test_positions_stretched_as_for_the_other_kind_of_attention_are_refused(tmp_path: Path):
    llama3 = replace(EXPERTS, rope_scaling={"rope_type": "llama3", "factor": 8.0})
    assert "type llama3 with multi-head latent attention" in refusal(tmp_path, llama3)


def test_latent_attention_without_experts_needs_sequence_parallelism_too(tmp_path: Path):
    layout = ("actor.tensor_model_parallel_size=2", "cluster.devices_per_node=2")
    dense = replace(EXPERTS, experts=None)
    assert "has wrong gradients in Megatron-core without it" in refusal(tmp_path, dense, *layout)
    check_trainable(load(minimal_yaml(tmp_path), [*layout, "actor.sequence_parallel=true"]), dense)
