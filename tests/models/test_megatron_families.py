"""Models with experts and latent attention in the Megatron backend: what transformers computes, in every layout."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from mindrl.models.megatron import gathering
from tests.distributed import run_distributed
from tests.models.dense_parity import one_step_and_save, save_model_and_oracle, two_steps
from tests.models.megatron_setup import make_backend
from tests.models.oracle import load_model, published, router_biases
from tests.models.tiny_models import EXPERT_FAMILIES, YARN, make_config

LAYOUTS = {
    "one process": (1, 1, 1, 1),
    "data parallel 2": (2, 1, 1, 1),
    "expert parallel 2": (2, 1, 1, 2),
    "tensor + sequence parallel 2": (2, 2, 1, 1),
    "pipeline parallel 2": (2, 1, 2, 1),
    "tensor + sequence 2 x expert 2": (4, 2, 1, 2),
    "pipeline 2 x expert 2": (4, 1, 2, 2),
    "tensor + sequence 2 x pipeline 2": (4, 2, 2, 1),
}
"""World size; tensor (of experts too), pipeline and expert parallel size."""
ALWAYS = {
    ("qwen3_moe-tied", "tensor + sequence 2 x expert 2"),
    ("deepseek_v3-untied", "expert parallel 2"),
    ("moonlight-untied", "pipeline parallel 2"),
}
"""The others take minutes."""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "scores of chosen experts as they are": ("qwen3_moe-untied", {"norm_topk_prob": False}),
    "one expert a token": ("qwen3_moe-tied", {"norm_topk_prob": False, "num_experts_per_tok": 1}),
    "a layer without experts": ("qwen3_moe-untied", {"mlp_only_layers": [1]}),
    "positions stretched by YaRN": ("deepseek_v3-untied", {"rope_parameters": YARN}),
    "YaRN with factors of its own": ("moonlight-tied", {"rope_parameters": YARN | {"mscale": 0.707}}),
    "experts in every layer": ("moonlight-untied", {"first_k_dense_replace": 0}),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model of every family and what the oracle makes of it."""
    root = tmp_path_factory.mktemp("models")
    for family in EXPERT_FAMILIES:
        save_model_and_oracle(root, family)
    return root


def two_steps_in(layout: str, directory: Path, resume: Path | None = None) -> float:
    world_size, tensor, pipeline, expert = LAYOUTS[layout]
    return two_steps(directory, world_size, tensor, pipeline, tensor > 1, resume=resume, expert=expert)


@pytest.mark.parametrize(
    ("family", "layout"),
    [
        pytest.param(family, layout, marks=() if (family, layout) in ALWAYS else pytest.mark.slow)
        for family in EXPERT_FAMILIES
        for layout in LAYOUTS
    ],
)
def test_weights_log_probs_gradients_and_two_steps_equal_the_oracles(
    models: Path, family: str, layout: str
) -> None:
    run_distributed(two_steps_in, LAYOUTS[layout][0], layout, models / family, timeout=150)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_what_config_json_may_say_otherwise_equals_the_oracle_too(tmp_path: Path, variant: str) -> None:
    family, settings = VARIANTS[variant]
    directory = save_model_and_oracle(tmp_path, family, **settings)
    run_distributed(two_steps_in, 1, "one process", directory, timeout=90)


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        ("expert parallel 2", "tensor + sequence parallel 2"),
        pytest.param("tensor + sequence parallel 2", "pipeline 2 x expert 2", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "family", [EXPERT_FAMILIES[0], pytest.param(EXPERT_FAMILIES[1], marks=pytest.mark.slow)]
)
def test_training_goes_on_in_another_layout(
    models: Path, tmp_path: Path, family: str, saved: str, loaded: str
) -> None:
    world_size, tensor, pipeline, expert = LAYOUTS[saved]
    assert pipeline == 1
    run_distributed(
        one_step_and_save,
        world_size,
        models / family,
        world_size,
        tensor,
        "cpu",
        tmp_path,
        expert,
        timeout=90,
    )
    run_distributed(two_steps_in, LAYOUTS[loaded][0], loaded, models / family, tmp_path, timeout=150)


def export_in_parcels(directory: Path, limit: int) -> tuple[bool, int]:
    """Whether weights come back bit by bit, and the largest number of bytes that travelled at once."""
    backend, _, _ = make_backend(make_config(directory, 2, expert=2))
    backend.load_hf(directory)
    model = load_model(directory)
    original = published(dict(model.named_parameters())) | router_biases(model)
    sizes: list[int] = []
    broadcast = dist.broadcast

    def watched(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(tensor.nbytes)
        return broadcast(tensor, *args, **kwargs)

    with patch.object(gathering, "PARCEL_BYTES", limit), patch.object(dist, "broadcast", watched):
        same = [torch.equal(tensor, original.pop(name)) for name, tensor in backend.named_tensors()]
    return all(same) and not original, max(sizes)


def test_experts_travel_a_few_at_a_time(models: Path) -> None:
    one_expert = 4 * 2 * 24 * 32  # bytes of its larger matrix, gate and up
    for limit in (0, 3 * one_expert):
        for same, largest in run_distributed(export_in_parcels, 2, models / "deepseek_v3-untied", limit):
            assert same
            assert largest <= max(limit, one_expert)
