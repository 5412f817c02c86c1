"""The memory estimate as arithmetic: what belongs to whom, who shares it, and what to change."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mindrl.config.schema import Config
from mindrl.planning.checks import check_model
from mindrl.planning.memory import MemoryEstimate, estimate_memory
from mindrl.planning.memory.advice import fitting_changes
from mindrl.planning.parameters import model_parameters
from mindrl.weight_maps import Architecture, read_architecture

GIB = 1 << 30
MODELS = Path(__file__).parents[2] / "configs" / "model"
QWEN_7B = read_architecture(MODELS / "qwen2.5-7b")
EXPERTS = read_architecture(MODELS / "qwen3-30b-a3b")


def make_config(
    *, actor: dict[str, Any] | None = None, rollout: dict[str, Any] | None = None, **sections: Any
) -> Config:
    """16 devices train a model in bfloat16 on 32 prompts with 8 samples of up to 1024 + 3072 tokens."""
    return Config.model_validate(
        {
            "cluster": {"num_nodes": 2, "devices_per_node": 8},
            "model": {"path": "model"},
            "data": {
                "train": [{"path": "t.parquet"}],
                "max_prompt_length": 1024,
                "max_response_length": 3072,
            },
            "actor": {
                "micro_batch_size": 4,
                "mini_batch_size": 32,
                "dtype": "bfloat16",
                "tensor_model_parallel_size": 4,
                "optimizer": {"lr": 1e-6},
                **(actor or {}),
            },
            "rollout": {"n_samples": 8, "tensor_parallel_size": 4, **(rollout or {})},
            "reward": {"functions": [{"name": "exact_match"}]},
            "trainer": {"global_batch_size": 32, "total_steps": 1, "output_dir": "out"},
            **sections,
        }
    )


def estimate(architecture: Architecture = QWEN_7B, **changes: Any) -> MemoryEstimate:
    return estimate_memory(make_config(**changes), architecture)


def part(memory: MemoryEstimate, name: str) -> int:
    """Bytes of a part; 0 where there is none."""
    return sum(part.bytes for part in memory.parts if part.name == name)


def test_weights_gradients_and_optimizer_of_one_device_add_up_to_eighteen_bytes_a_parameter():
    memory = estimate(
        actor={"tensor_model_parallel_size": 1},
        rollout={"tensor_parallel_size": 1},
        cluster={"devices_per_node": 1},
    )
    trained = ("actor weights", "gradients", "optimizer: float32 weights", "optimizer: moments")
    assert sum(part(memory, name) for name in trained) == 18 * model_parameters(QWEN_7B).total


def test_copies_of_the_actor_share_the_optimizer_and_nothing_else():
    one = estimate(cluster={"devices_per_node": 4})
    four = estimate()
    assert part(one, "optimizer: moments") == pytest.approx(4 * part(four, "optimizer: moments"), rel=1e-6)
    assert part(one, "gradients") == part(four, "gradients")


def test_a_reference_policy_takes_its_weights_in_every_phase_and_a_phase_of_its_own():
    without, with_one = estimate(), estimate(algorithm={"kl": {"coef": 0.01}})
    assert "reference" not in without.phases
    assert "reference" in with_one.phases
    assert part(with_one, "reference weights") == part(with_one, "actor weights")


def test_a_phase_is_the_sum_of_the_parts_that_are_there():
    memory = estimate()
    for phase, size in memory.phases.items():
        assert size == sum(part.bytes for part in memory.parts if phase in part.phases)
    assert memory.peak == memory.phases[memory.peak_phase] == max(memory.phases.values())


def test_recomputing_whole_layers_keeps_little_more_than_their_inputs():
    full = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    kept = part(estimate(actor={"transformer_config": full}), "activations")
    tokens = 4 * 4096
    inputs = 28 * tokens * 3584 * 2
    final_norm = 2 * tokens * 3584 * 2
    assert inputs < kept < inputs + part(estimate(), "activations") / 28 + 1.1 * final_norm


def test_sequence_parallel_cuts_norms_and_residuals():
    assert part(estimate(actor={"sequence_parallel": True}), "activations") < 0.8 * part(
        estimate(), "activations"
    )


def test_the_first_of_four_stages_keeps_four_micro_batches_and_the_last_one():
    """1F1B (Narayanan et al. 2021): the first stage starts as many as there are stages before it takes one back."""
    memory = estimate(actor={"pipeline_model_parallel_size": 4})
    one_stage = part(estimate(), "activations") / 4
    assert part(memory, "activations") == pytest.approx(4 * one_stage, rel=0.05)
    assert memory.rank == 0


def test_context_parallel_cuts_sequences():
    halved = part(estimate(actor={"context_parallel_size": 2}), "activations")
    assert halved == pytest.approx(part(estimate(), "activations") / 2, rel=0.01)


def test_experts_are_dealt_out_by_expert_parallelism_and_their_optimizer_with_them():
    one, four = (
        estimate(EXPERTS, actor={"tensor_model_parallel_size": 1, "expert_model_parallel_size": size})
        for size in (1, 4)
    )
    assert part(four, "actor weights") < 0.3 * part(one, "actor weights")
    # The same state over the same 16 ranks, cut another way.
    assert part(four, "optimizer: moments") == pytest.approx(part(one, "optimizer: moments"), rel=0.01)


def test_on_a_device_the_engine_fills_its_share_of_the_memory_with_cache():
    memory = estimate_memory(make_config(rollout={"gpu_memory_utilization": 0.5}), QWEN_7B, 64 * GIB)
    taken = sum(
        part(memory, name) for name in ("engine weights", "KV cache", "engine activations and logits")
    )
    assert taken == pytest.approx(32 * GIB, rel=1e-6)


def test_on_a_device_nothing_is_counted_for_the_allocator_of_the_host():
    assert not part(estimate(), "freed, not returned")
    assert part(estimate(hal={"accelerator": "cpu"}), "freed, not returned")


@pytest.mark.parametrize("limit", [16, 24, 32, 40, 48, 64])
@pytest.mark.parametrize("architecture", [QWEN_7B, EXPERTS], ids=lambda arch: arch.model_type)
def test_every_change_that_is_named_is_allowed_and_makes_the_run_fit(architecture: Architecture, limit: int):
    memory = estimate_memory(make_config(), architecture, limit * GIB)
    changes = [] if memory.fits(limit * GIB) else fitting_changes(memory, limit * GIB)
    sentences = memory.advice(limit * GIB)
    assert bool(sentences) != memory.fits(limit * GIB)
    for change in changes:
        check_model(change.estimate.config, architecture)
        again = estimate_memory(change.estimate.config, architecture, limit * GIB)
        assert again.fits(limit * GIB)
        for key in change.overrides:
            assert any(key in sentence for sentence in sentences)


def test_an_engine_whose_share_holds_no_sequence_does_not_fit_and_a_larger_share_is_named():
    config = make_config(rollout={"gpu_memory_utilization": 0.05}, actor={"micro_batch_size": 1})
    memory = estimate_memory(config, QWEN_7B, 64 * GIB)
    assert memory.peak < 64 * GIB
    assert not memory.fits(64 * GIB)
    assert any("rollout.gpu_memory_utilization" in sentence for sentence in memory.advice(64 * GIB))


def test_a_share_that_is_made_smaller_still_holds_a_sequence():
    recomputed = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    config = make_config(
        cluster={"num_nodes": 1, "devices_per_node": 8},
        actor={"transformer_config": recomputed},
        algorithm={"kl": {"coef": 0.001}},
        rollout={"tensor_parallel_size": 1},
    )
    memory = estimate_memory(config, QWEN_7B, 32 * GIB)
    (change,) = fitting_changes(memory, 32 * GIB)
    assert "rollout.gpu_memory_utilization" in change.overrides
    assert change.estimate.engine_can_serve


def test_the_mildest_value_is_named():
    memory = estimate()
    smaller = estimate(actor={"micro_batch_size": 2})
    sentences = memory.advice(smaller.peak)
    assert any(sentence.startswith("actor.micro_batch_size=2:") for sentence in sentences)


def test_where_no_change_is_enough_the_least_that_was_found_is_named():
    sentence = " ".join(estimate().advice(1 * GIB))
    assert "nothing tried fits into 1.0 GiB" in sentence
    assert "actor.micro_batch_size=1" in sentence
    assert "more devices" in sentence


def test_an_estimate_imports_no_torch():
    program = "import sys, mindrl.planning.memory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
