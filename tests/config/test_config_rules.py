"""Rules between keys: one breach each, and all breaches together."""

from pathlib import Path

import pytest

from mindrl.config import load
from mindrl.config.rules import RULES
from mindrl.errors import RequestError

BREACHES = {
    "actor_layout_fits_the_world": (
        ["cluster.devices_per_node=3", "actor.tensor_model_parallel_size=2", "trainer.global_batch_size=12"],
        "cluster: 3 devices (1 nodes x 3) can't be divided into copies of the actor, which take 2 each",
    ),
    "experts_are_shared_within_a_stage": (
        [
            "cluster.devices_per_node=4",
            "actor.tensor_model_parallel_size=2",
            "actor.expert_model_parallel_size=4",
        ],
        "actor.expert_model_parallel_size: 4 devices share the experts of a layer, and the 2 devices that hold",
    ),
    "layout_has_its_own_keys": (
        ["actor.transformer_config={virtual_pipeline_model_parallel_size: 2}"],
        "actor.transformer_config.virtual_pipeline_model_parallel_size: can't be set here: each device holds one",
    ),
    "uneven_stages_need_stages": (
        ["actor.transformer_config={num_layers_in_first_pipeline_stage: 3}"],
        "num_layers_in_first_pipeline_stage lay out pipeline stages, and actor.pipeline_model_parallel_size is 1",
    ),
    "recomputation_is_complete": (
        [
            "actor.transformer_config={recompute_granularity: full, recompute_method: uniform, recompute_num_layers: 0}"
        ],
        "actor.transformer_config.recompute_num_layers: found 0, expected a number of layers above 0",
    ),
    "kl_in_the_loss_has_a_gradient": (
        ["algorithm.kl={estimator: k1, coef: 0.1}"],
        "algorithm.kl: k1 in the loss adds noise and no pull",
    ),
    "kl_has_a_reference": (
        ["reference=null", "algorithm.kl.coef=0.1"],
        "reference: null, but algorithm.kl.coef is 0.1",
    ),
    "groups_can_be_compared": (
        ["rollout.n_samples=1"],
        "rollout.n_samples: with 1 response to a prompt there is no group to compare it with",
    ),
    "some_reward_counts": (
        ["reward.functions=[{name: exact_match, weight: 0}]"],
        "reward.functions: the weight of exact_match is 0, so every reward would be 0",
    ),
    "engines_fit_the_world": (
        ["rollout.tensor_parallel_size=2"],
        "rollout.tensor_parallel_size: 2 does not divide the 1 devices",
    ),
    "batch_divides_into_mini_batches": (
        ["actor.mini_batch_size=3", "actor.micro_batch_size=1"],
        "actor.mini_batch_size: 3 prompts do not divide trainer.global_batch_size, 8 prompts",
    ),
    "mini_batch_divides_into_micro_batches": (
        ["actor.micro_batch_size=3"],
        "actor.mini_batch_size x rollout.n_samples must be a multiple of 3",
    ),
    "reference_share_divides_into_micro_batches": (
        ["reference.micro_batch_size=3", "algorithm.kl.coef=0.1"],
        "reference.micro_batch_size: the 32 samples of a step can't be divided into micro-batches of 3",
    ),
    "every_engine_gets_a_prompt": (
        ["cluster.devices_per_node=16", "actor.mini_batch_size=8"],
        "trainer.global_batch_size: 8 prompts leave some of the 16 rollout engines without one",
    ),
    "sequence_parallel_needs_tensor_parallel": (
        ["actor.sequence_parallel=true"],
        "actor.tensor_model_parallel_size is 1",
    ),
    "rollout_samples_from_the_whole_vocabulary": (
        ["rollout.top_p=0.9"],
        "rollout.top_p, rollout.top_k: found 0.9 and -1",
    ),
    "hf_engine_uses_one_device": (
        ["rollout.engine=hf", "rollout.tensor_parallel_size=2", "cluster.devices_per_node=2"],
        "the hf engine holds a whole model on each device, found 2",
    ),
    "replay_names_what_it_replays": (
        ["rollout.engine=replay"],
        "rollout.replay_from: rollout.engine is replay, and null names no run",
    ),
    "replay_does_not_evaluate": (
        [
            "rollout.engine=replay",
            "rollout.replay_from=run",
            "trainer.eval_interval=5",
            "data.eval=[{path: x.parquet}]",
        ],
        "trainer.eval_interval: evaluation every 5 steps needs an engine that generates",
    ),
    "gap_warning_comes_before_the_stop": (
        ["rollout.logprob_gap_warn=10"],
        "rollout.logprob_gap_warn: 10 is above rollout.logprob_gap_stop, 5",
    ),
    "learning_rate_decays_downwards": (
        ["actor.lr_schedule.min_lr=1", "actor.lr_schedule.name=linear"],
        "actor.lr_schedule.min_lr: 1 is above the peak, actor.optimizer.lr 0.001",
    ),
    "constant_learning_rate_has_no_minimum": (
        ["actor.lr_schedule.min_lr=1e-4"],
        "actor.lr_schedule.min_lr: 0.0001 has no effect on the constant schedule",
    ),
    "warm_up_ends_within_the_run": (
        ["actor.lr_schedule.warmup_steps=11"],
        "actor.lr_schedule.warmup_steps: 11 steps are more than trainer.total_steps, 10",
    ),
    "reward_functions_are_named_once": (
        ["reward.functions=[{name: a}, {name: b}, {name: a}]"],
        "reward.functions: a listed more than once",
    ),
    "evaluation_sets_can_be_told_apart": (
        ["data.eval=[{path: x/test.parquet}, {path: y/test.parquet}]"],
        "data.eval: several files are named test",
    ),
    "evaluation_has_prompts": (
        ["trainer.eval_interval=5"],
        "trainer.eval_interval: evaluation every 5 steps has no prompts",
    ),
    "greedy_evaluation_samples_once": (
        ["evaluation.n_samples=4"],
        "evaluation.n_samples: 4 greedy responses to a prompt are all the same",
    ),
}


@pytest.mark.parametrize("name", BREACHES)
def test_a_broken_rule_is_the_one_problem_reported(minimal: Path, name: str):
    overrides, sentence = BREACHES[name]
    with pytest.raises(RequestError) as caught:
        load(minimal, overrides)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert sentence in lines[1]


def test_every_rule_has_a_breach_here():
    assert {check.__name__ for check in RULES} == set(BREACHES)


def test_top_k_is_refused_for_the_same_reason_as_top_p(minimal: Path):
    with pytest.raises(RequestError, match="renormalises the distribution"):
        load(minimal, ["rollout.top_k=50"])


def test_a_run_to_replay_without_the_engine_that_replays_is_refused(minimal: Path):
    with pytest.raises(
        RequestError, match=r"replay_from: run would have no effect, because rollout\.engine is auto"
    ):
        load(minimal, ["rollout.replay_from=run"])


def test_all_broken_rules_are_reported_at_once(minimal: Path):
    overrides = ["rollout.top_p=0.9", "actor.sequence_parallel=true", "actor.lr_schedule.warmup_steps=11"]
    with pytest.raises(RequestError, match="3 problems"):
        load(minimal, overrides)


def test_a_reference_that_does_not_run_needs_no_fitting_micro_batch(minimal: Path):
    assert load(minimal, ["reference.micro_batch_size=3"]).reference.micro_batch_size == 3


def test_the_pass_for_old_log_probs_is_left_out_only_with_one_optimizer_step(minimal: Path):
    assert load(minimal).recomputes_old_log_probs
    assert not load(minimal, ["actor.mini_batch_size=8"]).recomputes_old_log_probs
    both = ["actor.mini_batch_size=8", "algorithm.old_log_probs=recompute"]
    assert load(minimal, both).recomputes_old_log_probs


def test_stage_settings_that_ask_for_nothing_need_no_stages(minimal: Path):
    off = "{account_for_embedding_in_pipeline_split: false, num_layers_in_last_pipeline_stage: null}"
    assert load(minimal, [f"actor.transformer_config={off}"]).actor.pipeline_model_parallel_size == 1
