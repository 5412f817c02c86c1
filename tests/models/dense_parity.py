"""What a rank of the Megatron backend does beside the oracle: two steps of a tiny model, on any accelerator."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mindrl.checkpoint.training import load_checkpoint, save_checkpoint
from tests.models.megatron_setup import full_gradients, make_backend
from tests.models.oracle import OracleStep, load_model, oracle_steps, published, router_biases, worst_error
from tests.models.tiny_models import make_config, make_mini_batch, make_samples, save_tiny_model

NUM_SAMPLES = 8
SEEDS = (0, 10)
"""Of the samples of the two steps."""
LOG_PROB_TOLERANCE = 2e-5  # both sides are up to 5e-6 away from the same model in float64
TOLERANCE = 1e-5


def save_model_and_oracle(root: Path, family: str, name: str | None = None, **settings: Any) -> Path:
    """A tiny model in a folder of its own, and what the oracle makes of it; `settings` go to its config."""
    directory = save_tiny_model(root / (name or family), family, **settings)
    config = make_config(directory, 1, eps=1e-3)
    batches = [make_mini_batch(make_samples(NUM_SAMPLES, seed), seed=seed + 1) for seed in SEEDS]
    torch.save(oracle_steps(directory, config, batches), directory / "oracle.pt")
    return directory


def two_steps(
    directory: Path,
    world_size: int,
    tensor: int,
    pipeline: int,
    sequence_parallel: bool,
    accelerator: str = "cpu",
    resume: Path | None = None,
    *,
    expert: int = 1,
) -> float:
    """A rank takes its share of two mini-batches and compares everything with the oracle's. With `resume`, the first
    step is the one that `one_step_and_save` has taken, in whichever layout. Returns the worst gradient's error."""
    config = make_config(
        directory,
        world_size,
        tensor=tensor,
        pipeline=pipeline,
        expert=expert,
        sequence_parallel=sequence_parallel,
        micro_batch_size=3,
        eps=1e-3,
    )
    backend, data_rank, data_size = make_backend(config, accelerator=accelerator)
    expected: list[OracleStep] = torch.load(directory / "oracle.pt", weights_only=False)
    steps = list(zip(SEEDS, expected, strict=True))
    if resume is None:
        backend.load_hf(directory)
        named = {name: tensor.cpu() for name, tensor in backend.named_tensors()}
        model = load_model(directory)
        original = published(dict(model.named_parameters())) | router_biases(model)
        assert named.keys() == original.keys()
        assert all(torch.equal(named[name], original[name]) for name in named), "weights are not bit-exact"
    else:
        description = backend.state(("model", "optimizer"), for_loading=True)
        backend.load_state(load_checkpoint(resume, description))
        error, name = worst_error(dict(backend.named_tensors()), expected[0].parameters)
        assert error < TOLERANCE, f"{name} is off by {error:.1e} after loading"
        del steps[0]

    share = slice(data_rank * NUM_SAMPLES // data_size, (data_rank + 1) * NUM_SAMPLES // data_size)
    errors: list[float] = []
    for seed, oracle in steps:
        samples = make_samples(NUM_SAMPLES, seed)
        before = backend.log_probs(samples[share])
        stats = backend.accumulate_gradients(make_mini_batch(samples, share, seed + 1))
        for evaluated, trained, wanted in zip(before, stats.log_probs, oracle.log_probs[share], strict=True):
            np.testing.assert_allclose(evaluated, wanted, atol=LOG_PROB_TOLERANCE)
            np.testing.assert_array_equal(evaluated, trained)
        assert stats.sums == pytest.approx(oracle.sums, rel=1e-5, abs=1e-7)
        error, name = worst_error(full_gradients(backend), oracle.gradients)
        assert error < TOLERANCE, f"{directory.name}: gradient of {name} is off by {error:.1e}"
        errors.append(error)
        assert backend.apply_gradients(config.actor.optimizer.lr) == pytest.approx(oracle.grad_norm, rel=1e-5)
        error, name = worst_error(dict(backend.named_tensors()), oracle.parameters)
        assert error < TOLERANCE, f"{directory.name}: {name} is off by {error:.1e} after the step"
    return max(errors)


def one_step_and_save(
    directory: Path, world_size: int, tensor: int, accelerator: str, checkpoint: Path, expert: int = 1
) -> None:
    """The first of the two steps, into a checkpoint."""
    config = make_config(directory, world_size, tensor=tensor, expert=expert, micro_batch_size=3, eps=1e-3)
    backend, data_rank, data_size = make_backend(config, accelerator=accelerator)
    backend.load_hf(directory)
    samples = make_samples(NUM_SAMPLES, SEEDS[0])
    share = slice(data_rank * NUM_SAMPLES // data_size, (data_rank + 1) * NUM_SAMPLES // data_size)
    backend.accumulate_gradients(make_mini_batch(samples, share, SEEDS[0] + 1))
    backend.apply_gradients(config.actor.optimizer.lr)
    save_checkpoint(checkpoint, 1, backend.state(("model", "optimizer")), directory)
