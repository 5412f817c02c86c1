"""Building a worker's roles: device, process group, models, engine."""

from dataclasses import dataclass

from mindrl.models.backend import TrainBackend
from mindrl.workers.actor import ActorRole
from mindrl.workers.reference import ReferenceRole
from mindrl.workers.rollout import RolloutRole


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Where a worker stands in the run."""

    rank: int
    world_size: int
    local_rank: int
    """Its place among the workers of its node."""
    job_id: str
    """Names what this run leaves in places shared with others, such as shared memory."""


@dataclass(frozen=True, slots=True)
class Roles:
    """What one integrated worker holds."""

    backend: TrainBackend
    actor: ActorRole
    reference: ReferenceRole
    rollout: RolloutRole
    engine_size: int
    """Ranks per rollout engine."""
    device_facts: dict[str, object]
