"""Building a worker's roles: device, process group, models, engine."""

from dataclasses import dataclass

import hal
from mindrl.algorithms.objective import PolicyObjective
from mindrl.checkpoint.training import load_checkpoint
from mindrl.cluster.environment import use_interface_of_launch
from mindrl.config.schema import Config
from mindrl.data.stop_tokens import stop_token_ids
from mindrl.models.kernel_facts import DTYPES, kernel_facts
from mindrl.models.megatron.backend import MegatronBackend
from mindrl.models.megatron.parallel import initialize_parallel
from mindrl.planning.batch import sequences_per_engine
from mindrl.rollout.choose import choose_engine, make_engine
from mindrl.weight_maps import Architecture, read_architecture
from mindrl.workers.actor import ActorRole
from mindrl.workers.identity import WorkerIdentity
from mindrl.workers.reference import ReferenceRole
from mindrl.workers.rollout import RolloutRole


@dataclass(frozen=True, slots=True)
class Roles:
    """What one integrated worker holds."""

    backend: MegatronBackend
    actor: ActorRole
    reference: ReferenceRole
    rollout: RolloutRole
    engine_size: int
    """Ranks per rollout engine."""
    device_facts: dict[str, object]
    """For hal.txt (`table`) and hal.json (the rest)."""


def build_roles(config: Config, identity: WorkerIdentity, init_method: str, *, resumed: bool) -> Roles:
    """Join the process group and build this rank's share of every role; collective over all ranks.

    A resumed run's actor gets its weights later, from the run's own checkpoint."""
    accelerator = _join(config, identity, init_method)
    architecture = read_architecture(config.model.path)
    selection = hal.select(accelerator, kernel_facts(config.actor, architecture), config.hal.kernels)
    objective = PolicyObjective.from_config(config.algorithm)
    backend = MegatronBackend(config, architecture, accelerator, selection, objective)
    if not resumed:
        _load_initial_weights(backend, config)
    reference = None
    if config.has_reference:
        reference = MegatronBackend(config, architecture, accelerator, selection, trainable=False)
        _load_initial_weights(reference, config)
    engine = make_engine(
        config.rollout,
        config.model.path,
        dtype=DTYPES[config.actor.dtype],
        max_model_length=config.max_sequence_length,
        max_sequences=sequences_per_engine(config),
        seed=config.trainer.seed,
        job_id=identity.job_id,
        accelerator=accelerator,
    )
    return Roles(
        backend=backend,
        actor=ActorRole(backend, config),
        reference=ReferenceRole(reference, config.algorithm.kl),
        rollout=RolloutRole(engine, config, stop_token_ids(config.model.path)),
        engine_size=config.rollout.tensor_parallel_size,
        device_facts=_device_facts(config, accelerator, architecture, selection),
    )


def _join(config: Config, identity: WorkerIdentity, init_method: str) -> hal.Accelerator:
    """This worker's device, and the process group over all of them."""
    accelerator = hal.choose(config.hal.accelerator)
    # Ray shows a worker only the devices it was given; a worker that sees all of them takes its own.
    accelerator.set_device(0 if accelerator.device_count() == 1 else identity.local_rank)
    accelerator.set_deterministic(config.hal.deterministic)
    use_interface_of_launch(accelerator)
    hal.communication.initialize(
        accelerator,
        rank=identity.rank,
        world_size=identity.world_size,
        init_method=init_method,
        timeout_seconds=config.cluster.worker_timeout_seconds,
        join_timeout_seconds=config.cluster.join_timeout_seconds,
    )
    initialize_parallel(config, accelerator)
    return accelerator


def _load_initial_weights(backend: MegatronBackend, config: Config) -> None:
    if config.model.checkpoint is None:
        backend.load_hf(config.model.path)
    else:
        backend.load_state(load_checkpoint(config.model.checkpoint, backend.state(for_loading=True)))


def _device_facts(
    config: Config, accelerator: hal.Accelerator, architecture: Architecture, selection: hal.Selection
) -> dict[str, object]:
    engine = choose_engine(config.rollout, accelerator, architecture).name
    return {
        "table": f"accelerator  {accelerator.name}: {accelerator.description()}\nrollout      {engine}\n\n"
        f"{selection.table()}\n",
        "description": accelerator.description(),
        "rollout_engine": engine,
        **selection.as_dict(),
    }
