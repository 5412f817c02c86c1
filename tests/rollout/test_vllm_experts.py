"""Experts in vLLM: packed for its kernels when they are made, and again with every update."""

from collections.abc import Callable

import pytest
from conftest import Served
from rollout_models import largest_gap, named_tensors, perturb, requests
from test_weight_updates import check_two_updates

from mindrl.rollout.engine import generate


@pytest.fixture(scope="module")
def experts(serve: Callable[..., Served]) -> Served:
    return serve("vllm", "qwen3_moe", tied=False)


def test_vllm_follows_two_updates_of_experts(experts: Served) -> None:
    check_two_updates(experts)


def test_without_packing_them_again_what_is_sampled_is_nonsense(
    experts: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once this fails, vLLM does it itself, and `forget_packed_experts` can go."""
    perturb(experts.model, seed=10)
    with monkeypatch.context() as patch:
        patch.setattr("mindrl.rollout.vllm_engine.forget_packed_experts", lambda model: None)
        experts.engine.update_weights(named_tensors(experts.model), 10)
        assert largest_gap(experts.model, generate(experts.engine, requests(16)), 1.0) > 1
    experts.engine.update_weights(named_tensors(experts.model), 11)
    assert largest_gap(experts.model, generate(experts.engine, requests(16)), 1.0) < 1e-4
