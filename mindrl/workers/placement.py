"""Which process runs where: one policy worker per device, ranks in order of nodes, the driver's node first."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

import hal
from mindrl.config.schema import Config
from mindrl.errors import RequestError
from mindrl.workers.group import WorkerGroup
from mindrl.workers.identity import WorkerIdentity
from mindrl.workers.policy_worker import PolicyWorker


@dataclass(frozen=True, slots=True)
class Slot:
    """A reserved device."""

    bundle: int
    node_id: str


class Devices:
    """The devices of a run, reserved in Ray until `release`."""

    def __init__(self, config: Config, accelerator: hal.Accelerator) -> None:
        self._accelerator = accelerator
        bundle = {"CPU": 1.0} | {accelerator.ray_resource: 1.0}
        self._group: PlacementGroup = placement_group([bundle] * config.cluster.world_size, strategy="PACK")
        if not self._group.wait(config.cluster.join_timeout_seconds):
            remove_placement_group(self._group)
            raise RequestError(
                f"Ray could not reserve {config.cluster.world_size} times {bundle} within "
                f"{config.cluster.join_timeout_seconds:g} s; available are {ray.available_resources()}. Another job "
                "may hold them."
            )
        nodes = ray.util.placement_group_table(self._group)["bundles_to_node_id"]
        self._slots = in_order_of_rank(
            [Slot(bundle, node) for bundle, node in nodes.items()],
            addresses={node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()},
            first=ray.get_runtime_context().get_node_id(),
        )

    def start_policy_workers(self, config: Config, environment: dict[str, str]) -> WorkerGroup:
        """One worker process a device; rank counts through a node before the next begins."""
        job_id = uuid.uuid4().hex[:8]
        actors: list[Any] = []
        for rank, slot in enumerate(self._slots):
            local_rank = sum(other.node_id == slot.node_id for other in self._slots[:rank])
            identity = WorkerIdentity(rank, len(self._slots), local_rank, job_id)
            actors.append(
                ray.remote(PolicyWorker)
                .options(
                    scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, slot.bundle),
                    runtime_env={"env_vars": environment},
                    **({"num_cpus": 1} | self._accelerator.ray_arguments(1)),
                )
                .remote(identity)
            )
        return WorkerGroup(actors, config.cluster.worker_timeout_seconds)

    def release(self) -> None:
        """Give the devices back."""
        remove_placement_group(self._group)


def start_service(worker_class: type, environment: dict[str, str], *arguments: Any) -> Any:
    """An actor beside the policy workers that asks Ray for no CPU, so that it can't starve them.

    It runs on the driver's node: there the data were checked, and there samples are written."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return (
        ray.remote(worker_class)
        .options(
            num_cpus=0, scheduling_strategy=here, runtime_env={"env_vars": environment}, max_concurrency=1
        )
        .remote(*arguments)
    )


def in_order_of_rank(slots: Sequence[Slot], addresses: Mapping[str, str], first: str) -> list[Slot]:
    """Node by node: the one of id `first`, then the others by address, so that ranks lie the same way in every run."""
    return sorted(slots, key=lambda slot: (slot.node_id != first, addresses[slot.node_id], slot.bundle))
