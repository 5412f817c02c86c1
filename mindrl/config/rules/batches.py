"""How prompts and samples divide among mini-batches, micro-batches, copies of the actor and engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mindrl.config.rules.layout import actor_layout_fits_the_world, engines_fit_the_world
from mindrl.config.rules.table import rule

if TYPE_CHECKING:
    from mindrl.config.schema import Config


@rule
def batch_divides_into_mini_batches(config: Config) -> str | None:
    """`trainer.global_batch_size` is a multiple of `actor.mini_batch_size`."""
    batch, mini_batch = config.trainer.global_batch_size, config.actor.mini_batch_size
    if batch % mini_batch == 0:
        return None
    return (
        f"actor.mini_batch_size: {mini_batch} prompts do not divide trainer.global_batch_size, {batch} prompts; "
        "both count prompts"
    )


@rule
def mini_batch_divides_into_micro_batches(config: Config) -> str | None:
    """The samples of a mini-batch are a multiple of data parallel size x `actor.micro_batch_size`."""
    if actor_layout_fits_the_world(config):
        return None
    actor, n_samples, replicas = config.actor, config.rollout.n_samples, config.data_parallel_size
    samples, chunk = actor.mini_batch_size * n_samples, replicas * actor.micro_batch_size
    if samples % chunk == 0:
        return None
    return (
        f"actor.micro_batch_size: the {samples} samples of a mini-batch ({actor.mini_batch_size} prompts x "
        f"{n_samples} samples) can't be divided into micro-batches of {actor.micro_batch_size} on each of {replicas} "
        f"copies of the actor; actor.mini_batch_size x rollout.n_samples must be a multiple of {chunk}"
    )


@rule
def reference_share_divides_into_micro_batches(config: Config) -> str | None:
    """With a reference policy, each copy's samples of a step are a multiple of `reference.micro_batch_size`."""
    size = config.reference.micro_batch_size if config.reference else None
    if size is None or not config.has_reference or actor_layout_fits_the_world(config):
        return None
    samples = config.trainer.global_batch_size * config.rollout.n_samples
    if samples % (config.data_parallel_size * size) == 0:
        return None
    return (
        f"reference.micro_batch_size: the {samples} samples of a step can't be divided into micro-batches of {size} "
        f"on each of {config.data_parallel_size} copies of the model; leave it out to use the actor's"
    )


@rule
def every_engine_gets_a_prompt(config: Config) -> str | None:
    """`trainer.global_batch_size` is at least the number of rollout engines."""
    if engines_fit_the_world(config) or config.trainer.global_batch_size >= config.num_engines:
        return None
    return (
        f"trainer.global_batch_size: {config.trainer.global_batch_size} prompts leave some of the "
        f"{config.num_engines} rollout engines without one; prompts are dealt out to the engines in turn"
    )
