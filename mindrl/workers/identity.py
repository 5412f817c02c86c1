"""Who a worker is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Where a worker stands in the run."""

    rank: int
    world_size: int
    local_rank: int
    """Its place among the workers of its node."""
    job_id: str
    """Names what this run leaves in places shared with others, such as shared memory."""
