"""What there is to learn from: KL, groups, rewards, learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mindrl.config.rules.table import repeated, rule

if TYPE_CHECKING:
    from mindrl.config.schema import Config


@rule
def kl_in_the_loss_has_a_gradient(config: Config) -> str | None:
    """In the loss, the KL estimator is k2 or k3: the gradient of k1 is zero in expectation, so it would not act."""
    kl = config.algorithm.kl
    if kl.coef == 0 or kl.placement == "reward" or kl.estimator != "k1":
        return None
    return (
        "algorithm.kl: k1 in the loss adds noise and no pull, because the expectation of its gradient is zero; use "
        "algorithm.kl.estimator=k3 (or k2), or algorithm.kl.placement=reward"
    )


@rule
def kl_has_a_reference(config: Config) -> str | None:
    """`reference` is not null where `algorithm.kl.coef` is above 0."""
    if config.reference is not None or not config.has_reference:
        return None
    return (
        f"reference: null, but algorithm.kl.coef is {config.algorithm.kl.coef:g}, and that penalty is measured against "
        "the reference policy; leave `reference` out (it is built where it is needed), or set algorithm.kl.coef to 0"
    )


@rule
def groups_can_be_compared(config: Config) -> str | None:
    """`rollout.n_samples` is above 1: the advantage of a response is relative to the others of its prompt."""
    if config.rollout.n_samples > 1:
        return None
    return (
        "rollout.n_samples: with 1 response to a prompt there is no group to compare it with (its standard deviation "
        "does not exist, its advantage would always be 0), so nothing would be learned; set it to 2 or more"
    )


@rule
def reward_functions_are_named_once(config: Config) -> str | None:
    """A reward function is listed once."""
    names = repeated([function.name for function in config.reward.functions])
    if not names:
        return None
    return (
        f"reward.functions: {', '.join(names)} listed more than once; give one entry the sum of the weights"
    )


@rule
def some_reward_counts(config: Config) -> str | None:
    """A reward function has a weight other than 0 (one with 0 is only measured)."""
    functions = config.reward.functions
    if any(function.weight for function in functions):
        return None
    return (
        f"reward.functions: the weight of {', '.join(function.name for function in functions)} is 0, so every reward "
        "would be 0 and nothing learned; give one of them a weight"
    )


@rule
def learning_rate_decays_downwards(config: Config) -> str | None:
    """`actor.lr_schedule.min_lr` is at most `actor.optimizer.lr`."""
    min_lr, lr = config.actor.lr_schedule.min_lr, config.actor.optimizer.lr
    if min_lr <= lr:
        return None
    return f"actor.lr_schedule.min_lr: {min_lr:g} is above the peak, actor.optimizer.lr {lr:g}"


@rule
def constant_learning_rate_has_no_minimum(config: Config) -> str | None:
    """`actor.lr_schedule.min_lr` belongs to a schedule that decays."""
    schedule = config.actor.lr_schedule
    if schedule.name != "constant" or schedule.min_lr == 0:
        return None
    return (
        f"actor.lr_schedule.min_lr: {schedule.min_lr:g} has no effect on the constant schedule; set "
        "actor.lr_schedule.name to linear or cosine, or leave it out"
    )


@rule
def warm_up_ends_within_the_run(config: Config) -> str | None:
    """`actor.lr_schedule.warmup_steps` is at most `trainer.total_steps`."""
    warmup, total = config.actor.lr_schedule.warmup_steps, config.trainer.total_steps
    if warmup <= total:
        return None
    return f"actor.lr_schedule.warmup_steps: {warmup} steps are more than trainer.total_steps, {total}"
