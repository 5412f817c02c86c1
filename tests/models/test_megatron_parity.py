"""The Megatron backend computes what transformers computes, in every layout."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.distributed import run_distributed
from tests.models.dense_parity import NUM_SAMPLES, save_model_and_oracle, two_steps
from tests.models.megatron_setup import full_gradients, make_backend
from tests.models.oracle import worst_error
from tests.models.tiny_models import FAMILIES, make_config, make_mini_batch, make_samples

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
        save_model_and_oracle(root, family)
    return root


def every_family(root: Path, *layout: Any) -> None:
    for family in FAMILIES:
        two_steps(root / family, *layout)
        dist.barrier()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_loss_gradients_and_weights_after_two_steps_equal_the_oracles(models: Path, layout: str) -> None:
    run_distributed(every_family, LAYOUTS[layout][0], models, *LAYOUTS[layout], timeout=150)


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
