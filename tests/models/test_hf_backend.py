"""The Hugging Face backend computes what transformers and autograd compute, also data parallel."""

from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from distributed import run_distributed
from oracle import oracle_steps, worst_error
from tiny_models import make_config, make_mini_batch, make_samples, save_tiny_model

import hal
from mindrl.algorithms.objective import PolicyObjective
from mindrl.models.hf_backend import HfBackend
from mindrl.models.kernel_facts import kernel_facts
from mindrl.weight_maps import read_architecture

NUM_SAMPLES = 6


def one_step(directory: Path) -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    config = make_config(directory, size, eps=1e-3)
    arch, accelerator = read_architecture(directory), hal.choose("cpu")
    selection = hal.select(accelerator, kernel_facts(config.actor, arch))
    backend = HfBackend(config, arch, accelerator, selection, PolicyObjective.from_config(config.algorithm))
    samples = make_samples(NUM_SAMPLES)
    [oracle] = oracle_steps(directory, config, [make_mini_batch(samples)])
    share = slice(rank * NUM_SAMPLES // size, (rank + 1) * NUM_SAMPLES // size)
    for found, wanted in zip(backend.log_probs(samples[share]), oracle.log_probs[share], strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)
    stats = backend.accumulate_gradients(make_mini_batch(samples, share))
    assert stats.sums == pytest.approx(oracle.sums, rel=1e-5, abs=1e-7)
    assert backend.apply_gradients(config.actor.optimizer.lr) == pytest.approx(oracle.grad_norm, rel=1e-5)
    assert worst_error(dict(backend.named_tensors()), oracle.parameters)[0] < 1e-5


@pytest.mark.parametrize("world_size", [1, 2])
def test_one_step_equals_the_oracles(tmp_path: Path, world_size: int) -> None:
    run_distributed(one_step, world_size, save_tiny_model(tmp_path, "qwen2-tied"), timeout=60)
