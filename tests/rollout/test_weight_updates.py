"""Weights replaced in place, and every cache computed from the old ones gone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Served
from rollout_models import greedy, largest_gap, make_model, named_tensors, perturb, requests

from hal.devices.cpu import CpuAccelerator
from mindrl.errors import RequestError
from mindrl.rollout.engine import generate
from mindrl.rollout.hf_engine import HfEngine

BLOCK_SIZE = 32
"""Tokens that vLLM caches together: some of the prompts are longer."""


@pytest.fixture(scope="module")
def untied_vllm(serve: Callable[..., Served]) -> Served:
    return serve("vllm", "qwen2", tied=False, engine_args={"block_size": BLOCK_SIZE})


def check_two_updates(served: Served) -> None:
    """The same prompts, initially and after two updates, sampled and greedy."""
    long_prompts = requests(8, temperature=0.0, samples_per_prompt=1)
    answers = []
    for version in range(3):
        if version:
            perturb(served.model, seed=version)
        served.engine.update_weights(named_tensors(served.model), version)
        assert served.engine.weight_version == version
        for temperature in (1.0, 0.7):
            samples = generate(served.engine, requests(16, temperature=temperature))
            assert largest_gap(served.model, samples, temperature) < 1e-4
            assert {int(one) for sample in samples for one in sample.weight_version} == {version}
        answers.append([sample.response_ids.tolist() for sample in generate(served.engine, long_prompts)])
        assert answers[-1] == [greedy(served.model, request) for request in long_prompts]
    assert answers[0] != answers[1] != answers[2], "the updates are too small to show anything"


def test_vllm_follows_two_updates_with_untied_embeddings(untied_vllm: Served) -> None:
    check_two_updates(untied_vllm)


def test_the_repeated_prompts_would_show_a_cache_that_was_kept(
    untied_vllm: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the reset the same check fails, so it does not pass by luck (say, prompts too short to cache)."""
    asked = [request for request in requests(16) if len(request.prompt_ids) > BLOCK_SIZE]
    assert asked
    untied_vllm.engine.update_weights(named_tensors(untied_vllm.model), 10)
    assert largest_gap(untied_vllm.model, generate(untied_vllm.engine, asked), 1.0) < 1e-4
    perturb(untied_vllm.model, seed=10)
    with monkeypatch.context() as patch:
        patch.setattr(untied_vllm.engine._engine, "reset_prefix_cache", lambda **_: True)
        untied_vllm.engine.update_weights(named_tensors(untied_vllm.model), 11)
        assert largest_gap(untied_vllm.model, generate(untied_vllm.engine, asked), 1.0) > 1e-2
    untied_vllm.engine.update_weights(named_tensors(untied_vllm.model), 12)
    assert largest_gap(untied_vllm.model, generate(untied_vllm.engine, asked), 1.0) < 1e-4


def test_an_update_with_other_tensors_than_the_first_is_an_error(untied_vllm: Served) -> None:
    tensors = [(name, tensor.clone()) for name, tensor in untied_vllm.model.named_parameters()]
    untied_vllm.engine.update_weights(iter(tensors), 20)
    without_bias = [
        (name, tensor) for name, tensor in tensors if name != "model.layers.1.self_attn.k_proj.bias"
    ]
    with pytest.raises(ValueError, match=r"they differ in \['model.layers.1.self_attn.k_proj.bias'\]"):
        untied_vllm.engine.update_weights(iter(without_bias), 21)
    untied_vllm.engine.update_weights(iter(tensors), 22)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "qwen3_moe", "deepseek_v3"])
def test_transformers_follows_two_updates(serve: Callable[..., Served], family: str, tied: bool) -> None:
    check_two_updates(serve("hf", family, tied=tied))


def test_transformers_names_tensors_that_do_not_fit(tmp_path: Path) -> None:
    model = make_model(tmp_path, "qwen2", tied=False)
    engine = HfEngine(
        tmp_path, dtype=torch.float32, max_model_length=64, max_sequences=4, accelerator=CpuAccelerator()
    )
    tensors = [(name, tensor.clone()) for name, tensor in model.named_parameters()]
    with pytest.raises(ValueError, match=r"did not bring \['lm_head.weight'\]"):
        engine.update_weights([pair for pair in tensors if pair[0] != "lm_head.weight"], 0)
    with pytest.raises(ValueError, match=r"brought model\.extra, which Qwen2ForCausalLM does not have"):
        engine.update_weights([("model.extra", torch.zeros(1))], 0)
    with pytest.raises(ValueError, match=r"brought model.norm.weight as \[3\], the model has \[128\]"):
        engine.update_weights([("model.norm.weight", torch.zeros(3))], 0)


def test_engine_args_are_checked_by_name() -> None:
    check = pytest.importorskip("mindrl.rollout.vllm_arguments").check_engine_args
    check({"enable_prefix_caching": False, "max_num_batched_tokens": 4096})
    with pytest.raises(
        RequestError,
        match=r"max_num_batched_token: .* did you mean rollout\.engine_args\.max_num_batched_tokens",
    ):
        check({"max_num_batched_token": 4096})
    with pytest.raises(RequestError, match="load_format: can't be set here: weights come from the trainer"):
        check({"load_format": "auto"})
