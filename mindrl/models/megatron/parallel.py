"""Megatron's process groups, once per process: actor and reference share them."""

import math

from megatron.core import parallel_state

from hal import Accelerator
from mindrl.config.schema import Config
from mindrl.models.megatron.device import prepare
from mindrl.models.megatron.random_state import seed_generators


def initialize_parallel(config: Config, accelerator: Accelerator) -> None:
    """Bring Megatron-core to this device, make its groups for the actor's layout, and seed its generators.

    The default process group must exist. Ranks are laid out tensor parallel first, then data parallel, then
    pipeline stages; experts are shared among neighbours in data parallel, each cut as everything else. A second call
    with the same layout changes nothing."""
    prepare(accelerator)
    actor = config.actor
    asked = (
        actor.tensor_model_parallel_size,
        actor.pipeline_model_parallel_size,
        actor.expert_model_parallel_size,
    )
    tensor, pipeline, expert = asked
    if parallel_state.model_parallel_is_initialized():
        found = (
            parallel_state.get_tensor_model_parallel_world_size(),
            parallel_state.get_pipeline_model_parallel_world_size(),
            parallel_state.get_expert_model_parallel_world_size(),
        )
        if found != asked:
            raise ValueError(f"the process is laid out as (tensor, pipeline, expert) = {found}, not {asked}")
        return
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=tensor,
        pipeline_model_parallel_size=pipeline,
        expert_model_parallel_size=expert,
        expert_tensor_parallel_size=tensor,
        create_gloo_process_groups=False,
        distributed_timeout_minutes=math.ceil(config.cluster.worker_timeout_seconds / 60),
    )
    seed_generators(config.trainer.seed, accelerator)


def destroy_parallel() -> None:
    """Forget the groups, so that another layout can be made in the same process."""
    parallel_state.destroy_model_parallel()
