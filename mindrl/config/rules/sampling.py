"""What responses are drawn and compared, in training and in evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mindrl.config.rules.table import repeated, rule

if TYPE_CHECKING:
    from mindrl.config.schema import Config


@rule
def rollout_samples_from_the_whole_vocabulary(config: Config) -> str | None:
    """`rollout.top_p` is 1 and `rollout.top_k` is -1."""
    if config.rollout.top_p == 1.0 and config.rollout.top_k == -1:
        return None
    return (
        f"rollout.top_p, rollout.top_k: found {config.rollout.top_p:g} and {config.rollout.top_k}; cutting off "
        "candidates renormalises the distribution that responses are drawn from, so their log-probs are no longer "
        "the policy's and the probability ratio is wrong; train with 1 and -1"
    )


@rule
def replay_names_what_it_replays(config: Config) -> str | None:
    """`rollout.engine: replay` and `rollout.replay_from` come together."""
    replays, run_dir = config.rollout.engine == "replay", config.rollout.replay_from
    if replays == (run_dir is not None):
        return None
    if replays:
        return "rollout.replay_from: rollout.engine is replay, and null names no run; name the directory of the run"
    return (
        f"rollout.replay_from: {run_dir} would have no effect, because rollout.engine is {config.rollout.engine}; set "
        "that to replay, or leave this out"
    )


@rule
def replay_does_not_evaluate(config: Config) -> str | None:
    """`rollout.engine: replay` needs `trainer.eval_interval` 0."""
    if config.rollout.engine != "replay" or config.trainer.eval_interval == 0:
        return None
    return (
        f"trainer.eval_interval: evaluation every {config.trainer.eval_interval} steps needs an engine that generates, and "
        "rollout.engine is replay: a run records what it trains on; set it to 0"
    )


@rule
def gap_warning_comes_before_the_stop(config: Config) -> str | None:
    """`rollout.logprob_gap_warn` is at most `rollout.logprob_gap_stop`."""
    warn, stop = config.rollout.logprob_gap_warn, config.rollout.logprob_gap_stop
    if warn <= stop:
        return None
    return (
        f"rollout.logprob_gap_warn: {warn:g} is above rollout.logprob_gap_stop, {stop:g}; it would never warn"
    )


@rule
def evaluation_sets_can_be_told_apart(config: Config) -> str | None:
    """The files under `data.eval` have different names, because metrics are named after them."""
    names = repeated([source.path.stem for source in config.data.eval])
    if not names:
        return None
    return (
        f"data.eval: several files are named {', '.join(names)}, and metrics are named eval/<file name>/..."
    )


@rule
def evaluation_has_prompts(config: Config) -> str | None:
    """`trainer.eval_interval` above 0 needs `data.eval`."""
    if config.trainer.eval_interval == 0 or config.data.eval:
        return None
    return (
        f"trainer.eval_interval: evaluation every {config.trainer.eval_interval} steps has no prompts; name sets "
        "under data.eval, or set it to 0"
    )


@rule
def greedy_evaluation_samples_once(config: Config) -> str | None:
    """`evaluation.n_samples` above 1 needs a temperature above 0."""
    if config.evaluation.temperature > 0 or config.evaluation.n_samples == 1:
        return None
    return (
        f"evaluation.n_samples: {config.evaluation.n_samples} greedy responses to a prompt are all the same; set "
        "evaluation.temperature above 0, or n_samples to 1"
    )
