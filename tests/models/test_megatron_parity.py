"""The Megatron backend computes what transformers computes, in every layout."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from distributed import run_distributed
from megatron_setup import full_gradients, make_backend
from oracle import OracleStep, load_model, oracle_steps, worst_error
from tiny_models import FAMILIES, make_config, make_mini_batch, make_samples, save_tiny_model

NUM_SAMPLES = 8
LOG_PROB_TOLERANCE = 2e-5  # both sides are up to 5e-6 away from the same model in float64
LAYOUTS = {
    "one process": (1, 1, 1, False),
    "data parallel 2": (2, 1, 1, False),
    "tensor parallel 2": (2, 2, 1, False),
    "tensor + sequence parallel 2": (2, 2, 1, True),
    "pipeline parallel 2": (2, 1, 2, False),
    "tensor + sequence 2 x data 2": (4, 2, 1, True),
    "tensor + sequence 2 x pipeline 2": (4, 2, 2, True),
}
"""World size, tensor and pipeline parallel size, whether sequence parallel."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model of every family and what the oracle makes of it."""
    root = tmp_path_factory.mktemp("models")
    for family in FAMILIES:
        directory = save_tiny_model(root / family, family)
        config = make_config(directory, 1, eps=1e-3)
        batches = [make_mini_batch(make_samples(NUM_SAMPLES, seed), seed=seed + 1) for seed in (0, 10)]
        torch.save(oracle_steps(directory, config, batches), directory / "oracle.pt")
    return root


def two_steps(root: Path, world_size: int, tensor: int, pipeline: int, sequence_parallel: bool) -> None:
    """Each rank takes its share of two mini-batches and compares everything with the oracle's."""
    for family in FAMILIES:
        directory = root / family
        config = make_config(
            directory,
            world_size,
            tensor=tensor,
            pipeline=pipeline,
            sequence_parallel=sequence_parallel,
            micro_batch_size=3,
            eps=1e-3,
        )
        backend, data_rank, data_size = make_backend(config)
        backend.load_hf(directory)
        named = {name: tensor.clone() for name, tensor in backend.named_tensors()}
        original = dict(load_model(directory).named_parameters())
        assert named.keys() == original.keys()
        assert all(torch.equal(named[name], original[name]) for name in named), "weights are not bit-exact"

        expected: list[OracleStep] = torch.load(directory / "oracle.pt", weights_only=False)
        share = slice(data_rank * NUM_SAMPLES // data_size, (data_rank + 1) * NUM_SAMPLES // data_size)
        for seed, oracle in zip((0, 10), expected, strict=True):
            samples = make_samples(NUM_SAMPLES, seed)
            before = backend.log_probs(samples[share])
            stats = backend.accumulate_gradients(make_mini_batch(samples, share, seed + 1))
            for evaluated, trained, wanted in zip(
                before, stats.log_probs, oracle.log_probs[share], strict=True
            ):
                np.testing.assert_allclose(evaluated, wanted, atol=LOG_PROB_TOLERANCE)
                np.testing.assert_array_equal(evaluated, trained)
            assert stats.sums == pytest.approx(oracle.sums, rel=1e-5, abs=1e-7)
            error, name = worst_error(full_gradients(backend), oracle.gradients)
            assert error < 1e-5, f"{family}: gradient of {name} is off by {error:.1e}"
            assert backend.apply_gradients(config.actor.optimizer.lr) == pytest.approx(
                oracle.grad_norm, rel=1e-5
            )
            error, name = worst_error(dict(backend.named_tensors()), oracle.parameters)
            assert error < 1e-5, f"{family}: {name} is off by {error:.1e} after the step"
        dist.barrier()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_loss_gradients_and_weights_after_two_steps_equal_the_oracles(models: Path, layout: str) -> None:
    run_distributed(two_steps, LAYOUTS[layout][0], models, *LAYOUTS[layout], timeout=150)


def sums_and_gradients(
    directory: Path, micro_batch_size: int
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    backend, _, _ = make_backend(make_config(directory, 1, micro_batch_size=micro_batch_size))
    backend.load_hf(directory)
    stats = backend.accumulate_gradients(make_mini_batch(make_samples(NUM_SAMPLES)))
    return dict(stats.sums), full_gradients(backend)


def every_micro_batch_size(directory: Path) -> None:
    sums, gradients = sums_and_gradients(directory, 1)
    for micro_batch_size in (2, 3, 8):
        other_sums, other_gradients = sums_and_gradients(directory, micro_batch_size)
        assert other_sums == pytest.approx(sums, rel=1e-5)
        assert worst_error(other_gradients, gradients)[0] < 1e-5


def test_the_result_does_not_depend_on_micro_batches_and_their_padding(models: Path) -> None:
    run_distributed(every_micro_batch_size, 1, models / FAMILIES[0], timeout=60)


def metrics_of_two_steps(directory: Path) -> list[object]:
    backend, _, _ = make_backend(make_config(directory, 1))
    backend.load_hf(directory)
    shown: list[object] = []
    for seed in (0, 10):
        stats = backend.accumulate_gradients(make_mini_batch(make_samples(NUM_SAMPLES, seed)))
        shown += [stats.sums, [values.tolist() for values in stats.log_probs], backend.apply_gradients(0.01)]
    return shown


def test_the_same_seed_gives_the_same_bits(models: Path) -> None:
    first = run_distributed(metrics_of_two_steps, 1, models / FAMILIES[0], timeout=60)
    assert first == run_distributed(metrics_of_two_steps, 1, models / FAMILIES[0], timeout=60)
