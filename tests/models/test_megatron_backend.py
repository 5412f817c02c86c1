"""What the Megatron backend promises beyond parity: reference policy, state, memory, refusals, bfloat16."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distributed import run_distributed
from megatron_setup import full_gradients, make_backend
from oracle import load_model, oracle_steps, sample_log_probs, worst_error
from tiny_models import make_config, make_mini_batch, make_samples, save_tiny_model

from mindrl.checkpoint.training import load_checkpoint, save_checkpoint
from mindrl.models.megatron import offload


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen2-tied")


def weights_of(backend: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in backend.named_tensors()}


def same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def reference_beside_actor(directory: Path) -> None:
    config = make_config(directory, 1)
    actor, _, _ = make_backend(config)
    reference, _, _ = make_backend(config, trainable=False)
    for backend in (actor, reference):
        backend.load_hf(directory)
    samples = make_samples(5)
    before = reference.log_probs(samples)
    for first, second in zip(actor.log_probs(samples), before, strict=True):
        np.testing.assert_array_equal(first, second)
    actor.accumulate_gradients(make_mini_batch(samples))
    actor.apply_gradients(0.01)
    for first, second in zip(reference.log_probs(samples), before, strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.allclose(actor.log_probs(samples)[0], before[0], atol=1e-4)


def test_the_reference_policy_equals_the_actor_at_the_start_and_stays(model: Path) -> None:
    run_distributed(reference_beside_actor, 1, model, timeout=60)


def save_and_load(directory: Path, checkpoint: Path, tensor: int, pipeline: int) -> None:
    config = make_config(directory, 2, tensor=tensor, pipeline=pipeline)
    first, _, _ = make_backend(config)
    first.load_hf(directory)
    save_checkpoint(checkpoint, 3, first.state(), directory)
    second, _, _ = make_backend(config)
    second.load_state(load_checkpoint(checkpoint, second.state()))
    assert same_weights(weights_of(second), weights_of(first))


@pytest.mark.parametrize(("tensor", "pipeline"), [(2, 1), (1, 2)])
def test_state_goes_through_a_checkpoint_bit_by_bit(
    model: Path, tmp_path: Path, tensor: int, pipeline: int
) -> None:
    run_distributed(save_and_load, 2, model, tmp_path, tensor, pipeline, timeout=90)


def offload_and_onload(directory: Path) -> None:
    config = make_config(directory, 1)
    backend, _, _ = make_backend(config)
    backend.load_hf(directory)
    mini_batch = make_mini_batch(make_samples(4))
    backend.accumulate_gradients(mini_batch)
    backend.apply_gradients(0.01)
    before = weights_of(backend)
    moved = backend._host
    moved.move_out(offload.gradient_buffers(backend._ddp), keep=False)
    moved.move_out(offload.optimizer_tensors(backend._optimizer))
    moved.move_out(offload.parameter_tensors(backend._model))
    # float32: weights, gradients and two moments, each at least 4 bytes a parameter
    assert moved.num_bytes >= 16 * sum(param.numel() for param in backend._model.parameters())
    assert all(param.untyped_storage().nbytes() == 0 for param in backend._model.parameters())
    backend.onload()
    assert same_weights(weights_of(backend), before)
    backend.accumulate_gradients(mini_batch)
    backend.apply_gradients(0.01)
    expected, _, _ = make_backend(config)
    expected.load_hf(directory)
    for _ in range(2):
        expected.accumulate_gradients(mini_batch)
        expected.apply_gradients(0.01)
    assert same_weights(weights_of(backend), weights_of(expected))


def test_training_goes_on_after_memory_was_given_away_as_if_it_had_not(model: Path) -> None:
    run_distributed(offload_and_onload, 1, model, timeout=60)


def refuse_infinite_gradient(directory: Path) -> None:
    backend, _, _ = make_backend(make_config(directory, 1))
    backend.load_hf(directory)
    before = weights_of(backend)
    mini_batch = make_mini_batch(make_samples(4))
    mini_batch.advantages[1] = np.inf
    backend.accumulate_gradients(mini_batch)
    with pytest.raises(FloatingPointError, match="weights are unchanged"):
        backend.apply_gradients(0.01)
    assert same_weights(weights_of(backend), before)


def test_a_gradient_that_is_not_finite_stops_the_step_and_leaves_the_weights(model: Path) -> None:
    run_distributed(refuse_infinite_gradient, 1, model, timeout=60)


def small_updates_in_bfloat16(directory: Path) -> None:
    config = make_config(directory, 2)
    config = config.model_copy(update={"actor": config.actor.model_copy(update={"dtype": "bfloat16"})})
    backend, rank, _ = make_backend(config)
    backend.load_hf(directory)
    start = weights_of(backend)
    assert {tensor.dtype for tensor in start.values()} == {torch.bfloat16}
    full, _, _ = make_backend(make_config(directory, 2))
    full.load_hf(directory)
    samples = make_samples(8)[rank * 4 : rank * 4 + 4]
    pairs = zip(backend.log_probs(samples), full.log_probs(samples), strict=True)
    assert max(np.abs(half - single).max() for half, single in pairs) < 0.1
    # A step of 1e-5 is below bfloat16's resolution at 1.0; only float32 main weights can add fifty of them up.
    for _ in range(50):
        backend.accumulate_gradients(make_mini_batch(samples))
        backend.apply_gradients(1e-4)
    moved = weights_of(backend)
    name = "model.norm.weight"
    assert (moved[name].float() - start[name].float()).abs().max() > 2e-3


def test_bfloat16_weights_train_through_float32_copies(model: Path) -> None:
    run_distributed(small_updates_in_bfloat16, 2, model, timeout=90)


def log_probs_under_scaled_rope(directory: Path) -> None:
    backend, _, _ = make_backend(make_config(directory, 1))
    backend.load_hf(directory)
    oracle = load_model(directory)
    samples = make_samples(6)
    with torch.no_grad():
        expected = [sample_log_probs(oracle, sample, 0.8)[0].numpy() for sample in samples]
    for found, wanted in zip(backend.log_probs(samples), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_llama3_scaling_of_the_rotary_embedding_equals_transformers(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 1e8,  # with 8 dimensions a head, this gives wavelengths on both sides of 8192
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    model = save_tiny_model(tmp_path, "llama-untied", rope_parameters=scaling)
    run_distributed(log_probs_under_scaled_rope, 1, model, timeout=60)


def all_samples_on_the_first_rank(directory: Path) -> None:
    config = make_config(directory, 2)
    backend, rank, _ = make_backend(config)
    backend.load_hf(directory)
    samples = make_samples(5)
    share = slice(None) if rank == 0 else slice(0)
    stats = backend.accumulate_gradients(make_mini_batch(samples, share))
    [oracle] = oracle_steps(directory, config, [make_mini_batch(samples)])
    assert stats.sums == pytest.approx(oracle.sums, rel=1e-5, abs=1e-7)
    assert len(stats.log_probs) == len(backend.log_probs(samples[share])) == len(samples[share])
    assert worst_error(full_gradients(backend), oracle.gradients)[0] < 1e-5


def test_a_rank_without_samples_adds_nothing_and_holds_nobody_up(model: Path) -> None:
    run_distributed(all_samples_on_the_first_rank, 2, model, timeout=60)


def half_of_the_advantages_zero(directory: Path, pipeline: int, kl_coef: float) -> None:
    config = make_config(directory, 2, pipeline=pipeline, micro_batch_size=3)
    algorithm = config.algorithm.model_copy(
        update={"entropy_coef": 0.0, "kl": config.algorithm.kl.model_copy(update={"coef": kl_coef})}
    )
    config = config.model_copy(update={"algorithm": algorithm})
    backend, data_rank, data_size = make_backend(config)
    backend.load_hf(directory)
    samples = make_samples(10)
    whole = make_mini_batch(samples)
    whole.advantages[:5:2] = 0.0  # three of the first data-parallel rank's five
    whole.advantages[5:] = 0.0  # and all of the second's
    share = slice(data_rank * 10 // data_size, (data_rank + 1) * 10 // data_size)
    mine = replace(make_mini_batch(samples, share), advantages=whole.advantages[share])
    stats = backend.accumulate_gradients(mine)
    [oracle] = oracle_steps(directory, config, [whole])
    assert stats.sums == pytest.approx(oracle.sums, rel=1e-5, abs=1e-7)
    for found, wanted in zip(stats.log_probs, oracle.log_probs[share], strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert worst_error(full_gradients(backend), oracle.gradients)[0] < 1e-5
    assert backend.apply_gradients(0.01) == pytest.approx(oracle.grad_norm, rel=1e-5)


@pytest.mark.parametrize(("pipeline", "kl_coef"), [(1, 0.0), (1, 0.05), (2, 0.0)])
def test_responses_without_advantage_count_in_metrics_and_add_what_they_should_to_gradients(
    model: Path, pipeline: int, kl_coef: float
) -> None:
    run_distributed(half_of_the_advantages_zero, 2, model, pipeline, kl_coef, timeout=60)
