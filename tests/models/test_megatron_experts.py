"""Experts and latent attention by the HAL's spec provider: losses and gradients are transformers', in every layout."""

from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import apply_factories
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.moe.experts import SequentialMLP
from megatron.core.transformer.moe.moe_utils import get_default_pg_collection

from mindrl.errors import RequestError
from tests.distributed import run_distributed
from tests.models.expert_models import KINDS, Layout, MegatronModel
from tests.models.expert_parity import (
    load_and_take_a_step,
    one_step,
    packed_and_alone,
    recompute_error,
    save_after_a_step,
    save_oracles,
)

Places = list[tuple[str, tuple[int, ...], tuple[int, ...]]]
"""Key, global shape and offset of every tensor."""
LAYOUTS = {
    "one process": (1, Layout()),
    "data parallel 2": (2, Layout()),
    "expert parallel 2": (2, Layout(expert=2)),
    "tensor + sequence parallel 2, experts cut": (2, Layout(tensor=2, expert_tensor=2)),
    "tensor + sequence parallel 2, experts spread": (2, Layout(tensor=2, expert=2)),
    "pipeline parallel 2": (2, Layout(pipeline=2)),
    "context parallel 2": (2, Layout(context=2)),
}
"""Number of processes, and what they share."""


@pytest.fixture(scope="module")
def oracles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what transformers and AdamW make of every model."""
    root = tmp_path_factory.mktemp("oracles")
    save_oracles(root)
    return root


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("kind", KINDS[:2])
def test_loss_gradients_and_weights_after_a_step_equal_transformers(
    oracles: Path, kind: str, layout: str
) -> None:
    run_distributed(one_step, LAYOUTS[layout][0], oracles, kind, LAYOUTS[layout][1], timeout=90)


def test_positions_stretched_by_yarn_equal_transformers(oracles: Path) -> None:
    run_distributed(one_step, 1, oracles, "deepseek-v3-yarn", Layout(), timeout=90)


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("layout", [Layout(), Layout(tensor=2, expert=2), Layout(context=2)], ids=str)
def test_packed_sequences_equal_the_same_ones_alone(kind: str, layout: Layout) -> None:
    run_distributed(packed_and_alone, layout.tensor * layout.context, kind, layout, timeout=60)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_recomputed_experts_get_the_same_tokens_and_the_same_dropout(oracles: Path, kind: str) -> None:
    assert run_distributed(recompute_error, 2, oracles, kind, timeout=90) == [0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        ("expert parallel 2", "tensor + sequence parallel 2, experts cut"),
        ("pipeline parallel 2", "one process"),
    ],
    ids=str,
)
def test_training_goes_on_from_a_checkpoint_in_another_layout(
    oracles: Path, tmp_path: Path, kind: str, saved: str, loaded: str
) -> None:
    run_distributed(save_after_a_step, LAYOUTS[saved][0], oracles, kind, LAYOUTS[saved][1], tmp_path)
    run_distributed(load_and_take_a_step, LAYOUTS[loaded][0], oracles, kind, LAYOUTS[loaded][1], tmp_path)


def places_of_experts() -> tuple[Places, Places]:
    """Where a checkpoint has this rank's experts: those of the HAL, and those of one module an expert."""
    model = MegatronModel("qwen3-moe", Layout(expert=2))
    groups = get_default_pg_collection()
    one_by_one = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    with model.accelerator.device():
        modules = SequentialMLP(2, model.transformer, one_by_one, groups)
    ours = model.model.decoder.layers[0].mlp.experts
    return _places(ours), _places(modules)


def _places(experts: torch.nn.Module) -> Places:
    state = experts.sharded_state_dict("experts.", ((0, 1, 4),))
    apply_factories(state)
    shards = [shard for shard in nested_values(state) if isinstance(shard, ShardedTensor)]
    return sorted((shard.key, shard.global_shape, shard.global_offset) for shard in shards)


def test_checkpoints_hold_experts_as_if_each_were_a_module() -> None:
    for ours, modules in run_distributed(places_of_experts, 2):
        assert ours == modules


def refusal_of_latent_attention(tensor: int, settings: dict[str, Any]) -> str:
    try:
        MegatronModel("deepseek-v3", Layout(tensor=tensor), **settings)
    except RequestError as error:
        return str(error)
    return ""


def test_latent_attention_that_would_have_wrong_gradients_is_refused() -> None:
    for refusal in run_distributed(refusal_of_latent_attention, 2, 2, {"sequence_parallel": False}):
        assert "set actor.sequence_parallel to true" in refusal


def test_a_part_of_latent_attention_that_would_not_be_recomputed_is_refused() -> None:
    settings = {"recompute_granularity": "selective", "recompute_modules": ["mla_up_proj"]}
    [refusal] = run_distributed(refusal_of_latent_attention, 1, 1, settings)
    assert "leave it out, or set recompute_granularity to full" in refusal
