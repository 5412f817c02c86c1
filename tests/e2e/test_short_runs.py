"""What must hold in every run, whatever it learns."""

from pathlib import Path

import pytest
from real_runs import Files, Train

from mindrl.trainer.metric_names import reproducible

GAP = 1e-4
"""What the quick start stops at; float32 rounding is some 5e-6."""


def without_times(metrics: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k == "step" or reproducible(k)} for row in metrics]


def test_two_runs_with_one_seed_give_identical_metrics(train: Train, tmp_path: Path):
    first, second = train(name="first"), train(name="second")
    assert len(first) == 3
    assert without_times(first) == without_times(second)
    assert {p.name for p in (tmp_path / "first").iterdir()} == {
        "config.yaml", "hal.txt", "hal.json", "metrics.jsonl", "summary.json", "samples", "checkpoints", "logs"
    }  # fmt: skip


def test_the_separate_pass_for_old_log_probs_agrees_with_the_update(train: Train):
    rows = train("algorithm.old_log_probs=recompute")
    assert all(row["kl/ppo"] < 1e-8 for row in rows)
    assert all(row["clip_fraction"] == 0 for row in rows)


def test_several_mini_batches_move_away_from_the_policy_that_sampled(train: Train):
    rows = train("actor.mini_batch_size=8", "actor.micro_batch_size=16")
    assert rows[0]["kl/ppo"] > 1e-8  # mean over four mini-batches, of which the first has none
    assert max(row["logprob_gap/max"] for row in rows) < GAP


@pytest.mark.parametrize(
    ("actor", "engine"),
    [
        pytest.param(["tensor_model_parallel_size=2", "sequence_parallel=true"], 2, id="TP2+SP into TP2"),
        pytest.param(["tensor_model_parallel_size=2", "sequence_parallel=true"], 1, id="TP2+SP into two TP1"),
        pytest.param(
            ["pipeline_model_parallel_size=2", "transformer_config={num_layers_in_first_pipeline_stage: 2}"],
            1,
            id="PP2 of two and one layers into two TP1",
        ),
    ],
)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_weights_reach_the_engines_from_every_layout(
    train: Train, files: Files, actor: list[str], engine: int, tied: bool
):
    rows = train(
        *(f"actor.{override}" for override in actor),
        f"rollout.tensor_parallel_size={engine}",
        model=files.tied if tied else files.untied,
    )
    assert [row["weight_version"] for row in rows] == [0, 1, 2]
    assert all(row["grad_norm"] > 1e-3 for row in rows)  # each update moved the weights
    assert rows[-1]["kl/reference"] > 1e-7
    assert max(row["logprob_gap/max"] for row in rows) < GAP


def test_kl_in_the_reward_runs_and_is_taken_from_it(train: Train):
    rows = train("algorithm.kl.placement=reward", "algorithm.kl.estimator=k1", "algorithm.kl.coef=0.1")
    assert rows[0]["kl/reference"] == pytest.approx(0, abs=1e-7)
    assert rows[-1]["kl/reference"] != 0
    assert all(row["loss/total"] == row["loss/policy"] for row in rows)


def test_the_transformers_engine_serves_the_same_run(train: Train):
    rows = train("rollout.engine=hf", "trainer.total_steps=2")
    assert max(row["logprob_gap/max"] for row in rows) < GAP


def test_a_run_that_replays_anothers_samples_gives_identical_metrics(train: Train, tmp_path: Path):
    recorded = train("rollout.engine=hf", "trainer.sample_interval=1", name="recorded")
    replayed = train("rollout.engine=replay", f"rollout.replay_from={tmp_path / 'recorded'}", name="replayed")
    assert without_times(recorded) == without_times(replayed)
    assert replayed[-1]["kl/reference"] > 0  # it did learn


def test_a_learning_rate_of_zero_changes_nothing(train: Train):
    rows = train("actor.optimizer.lr=0", "trainer.total_steps=2")
    # Not exactly 0: the update takes its log-probs along with the loss, and their sums in another order.
    assert max(row["kl/reference"] for row in rows) < 1e-12
