"""Models with experts and latent attention in the Megatron backend: what transformers computes, in every layout."""

from pathlib import Path

import pytest

from tests.distributed import run_distributed
from tests.models.dense_parity import save_model_and_oracle, two_steps
from tests.models.tiny_models import EXPERT_FAMILIES

LAYOUTS = {
    "one process": (1, 1, 1, 1),
    "data parallel 2": (2, 1, 1, 1),
    "expert parallel 2": (2, 1, 1, 2),
    "tensor + sequence parallel 2": (2, 2, 1, 1),
    "pipeline parallel 2": (2, 1, 2, 1),
    "tensor + sequence 2 x expert 2": (4, 2, 1, 2),
    "pipeline 2 x expert 2": (4, 1, 2, 2),
}
"""World size; tensor (of experts too), pipeline and expert parallel size."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model of every family and what the oracle makes of it."""
    root = tmp_path_factory.mktemp("models")
    for family in EXPERT_FAMILIES:
        save_model_and_oracle(root, family)
    return root


def two_steps_in(layout: str, directory: Path) -> float:
    world_size, tensor, pipeline, expert = LAYOUTS[layout]
    return two_steps(directory, world_size, tensor, pipeline, tensor > 1, expert=expert)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("family", EXPERT_FAMILIES)
def test_weights_log_probs_gradients_and_two_steps_equal_the_oracles(
    models: Path, family: str, layout: str
) -> None:
    run_distributed(two_steps_in, LAYOUTS[layout][0], layout, models / family, timeout=150)
