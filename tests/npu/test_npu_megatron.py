"""Megatron-core with torch_npu's fused kernels equals the CPU on two virtual NPUs: every layout, experts, latent
attention, packed sequences, recomputation, checkpoints.

Dispatch, schemas, autograd and collectives (ProcessGroupHCCL, point to point too) are torch_npu's own. Ascend's
numerics, its speed, and what its kernels themselves refuse are not checked."""

from pathlib import Path

import pytest

import hal
from hal.testing.ranks import run_on_ranks
from tests.models.expert_models import Layout, kernel_facts
from tests.npu.megatron_cases import EXPERT_KINDS, UNPATCHED, cases, run_cases, write_oracles

Outcomes = list[dict[str, float | str]]
FUSED = ("rms_norm", "attention", "rotary", "swiglu", "grouped_matmul", "moe_permute", "moe_unpermute")


@pytest.fixture(scope="module")
def outcomes(npu: hal.Accelerator, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Of both ranks, by case."""
    root = tmp_path_factory.mktemp("oracles")
    write_oracles(root)
    meeting = tmp_path_factory.mktemp("meeting")
    return run_on_ranks(run_cases, 2, meeting, root, accelerator=npu.name, seconds=500)


@pytest.mark.parametrize("name", list(cases(Path())))
def test_two_npus_equal_the_cpu(outcomes: Outcomes, name: str) -> None:
    for rank, outcome in enumerate(outcomes):
        found = outcome.get(name, "not run: a case before it failed")
        assert isinstance(found, float), f"rank {rank}: {found}"
        assert found == 0.0 if "recomputed" in name else found < 1e-5


def test_without_the_random_state_patch_recomputed_activations_get_other_dropout(outcomes: Outcomes) -> None:
    errors = [outcome[UNPATCHED] for outcome in outcomes]
    assert all(isinstance(error, float) and error > 0.01 for error in errors), f"the patch can go: {errors}"


@pytest.mark.parametrize("kind", EXPERT_KINDS)
def test_the_kernels_are_torch_npus(npu: hal.Accelerator, kind: str) -> None:
    chosen = hal.select(npu, kernel_facts(kind, Layout(expert=2), {"attention_dropout": 0.1})).providers
    assert {op: chosen[op] for op in FUSED} == dict.fromkeys(FUSED, "torch_npu")
