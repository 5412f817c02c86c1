"""What is laid out over which devices: the actor, its experts and stages, the rollout engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mindrl.config.recomputation import recomputation_problem
from mindrl.config.rules.table import rule

if TYPE_CHECKING:
    from mindrl.config.schema import Config

UNEVEN_STAGES = frozenset(
    {
        "account_for_embedding_in_pipeline_split",
        "account_for_loss_in_pipeline_split",
        "num_layers_in_first_pipeline_stage",
        "num_layers_in_last_pipeline_stage",
    }
)
"""Fields of `actor.transformer_config` by which stages get different numbers of layers."""

_NO_VIRTUAL_PIPELINE = "each device holds one stage; interleaved (virtual) pipelines are not in training yet"
LAYOUT_FIELDS = {
    "tensor_model_parallel_size": "actor.tensor_model_parallel_size decides it",
    "pipeline_model_parallel_size": "actor.pipeline_model_parallel_size decides it",
    "context_parallel_size": "actor.context_parallel_size decides it",
    "expert_model_parallel_size": "actor.expert_model_parallel_size decides it",
    "expert_tensor_parallel_size": "experts are cut as everything else, by actor.tensor_model_parallel_size",
    "sequence_parallel": "actor.sequence_parallel decides it",
    "virtual_pipeline_model_parallel_size": _NO_VIRTUAL_PIPELINE,
    "num_layers_per_virtual_pipeline_stage": _NO_VIRTUAL_PIPELINE,
    "pipeline_model_parallel_layout": f"{', '.join(sorted(UNEVEN_STAGES))} lay out stages",
}
"""Names that would decide a layout behind the back of the actor's own keys, and what to do instead."""


@rule
def actor_layout_fits_the_world(config: Config) -> str | None:
    """The number of devices is a multiple of tensor x pipeline x context parallel size."""
    actor, world_size = config.actor, config.cluster.world_size
    if world_size % actor.model_parallel_size == 0:
        return None
    context = (
        f" x actor.context_parallel_size {actor.context_parallel_size}"
        if actor.context_parallel_size > 1
        else ""
    )
    return (
        f"cluster: {world_size} devices ({config.cluster.num_nodes} nodes x {config.cluster.devices_per_node}) can't "
        f"be divided into copies of the actor, which take {actor.model_parallel_size} each "
        f"(actor.tensor_model_parallel_size {actor.tensor_model_parallel_size} x "
        f"actor.pipeline_model_parallel_size {actor.pipeline_model_parallel_size}{context}); change one of them"
    )


@rule
def experts_are_shared_within_a_stage(config: Config) -> str | None:
    """Expert parallel size divides data x context parallel size: its devices hold the same shard of everything else."""
    if actor_layout_fits_the_world(config):
        return None
    size = config.actor.expert_model_parallel_size
    peers = config.data_parallel_size * config.actor.context_parallel_size
    if peers % size == 0:
        return None
    return (
        f"actor.expert_model_parallel_size: {size} devices share the experts of a layer, and the {peers} devices that "
        f"hold the same shard of it ({config.data_parallel_size} copies of the actor x actor.context_parallel_size "
        f"{config.actor.context_parallel_size}) can't be divided into groups of {size}; use a divisor of {peers}"
    )


@rule
def engines_fit_the_world(config: Config) -> str | None:
    """The number of devices is a multiple of the rollout engine's tensor parallel size."""
    size, world_size = config.rollout.tensor_parallel_size, config.cluster.world_size
    if world_size % size == 0:
        return None
    return f"rollout.tensor_parallel_size: {size} does not divide the {world_size} devices of the run"


@rule
def hf_engine_uses_one_device(config: Config) -> str | None:
    """`rollout.engine: hf` has no tensor parallelism."""
    if config.rollout.engine != "hf" or config.rollout.tensor_parallel_size == 1:
        return None
    return (
        f"rollout.tensor_parallel_size: the hf engine holds a whole model on each device, found "
        f"{config.rollout.tensor_parallel_size}; set it to 1, or rollout.engine to vllm"
    )


@rule
def sequence_parallel_needs_tensor_parallel(config: Config) -> str | None:
    """`actor.sequence_parallel` needs a tensor parallel size above 1."""
    if not config.actor.sequence_parallel or config.actor.tensor_model_parallel_size > 1:
        return None
    return (
        "actor.sequence_parallel: splits the sequence among tensor-parallel devices, and "
        "actor.tensor_model_parallel_size is 1; set it above 1, or sequence_parallel to false"
    )


@rule
def layout_has_its_own_keys(config: Config) -> str | None:
    """`actor.transformer_config` sets no layout: sizes are keys of `actor`, and there is no interleaved pipeline."""
    given = sorted(LAYOUT_FIELDS.keys() & config.actor.transformer_config.keys())
    if not given:
        return None
    return "; ".join(
        f"actor.transformer_config.{name}: can't be set here: {LAYOUT_FIELDS[name]}" for name in given
    )


@rule
def uneven_stages_need_stages(config: Config) -> str | None:
    """Fields of `actor.transformer_config` that lay out pipeline stages need more than one."""
    settings = config.actor.transformer_config
    given = sorted(name for name in UNEVEN_STAGES & settings.keys() if settings[name] not in (None, False))
    if not given or config.actor.pipeline_model_parallel_size > 1:
        return None
    return (
        f"actor.transformer_config: {', '.join(given)} lay out pipeline stages, and "
        "actor.pipeline_model_parallel_size is 1; leave them out, or set it above 1"
    )


@rule
def recomputation_is_complete(config: Config) -> str | None:
    """The `recompute_` fields of `actor.transformer_config` are ones that Megatron-core knows, and belong together."""
    problem = recomputation_problem(config.actor.transformer_config)
    return problem and f"actor.transformer_config.{problem}"
