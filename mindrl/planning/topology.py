"""Which rank is where, and which shard of the actor and of a rollout engine it holds."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

from mindrl.config.schema import Config


@dataclass(frozen=True, slots=True)
class Place:
    """One worker process: its machine and device, and its coordinates in the actor and in the engines."""

    rank: int
    node: int
    device: int
    """Index among the devices of its node."""
    tensor_parallel_rank: int
    context_parallel_rank: int
    data_parallel_rank: int
    pipeline_parallel_rank: int
    expert_parallel_rank: int
    """Which of the shares of a layer's experts it holds. A second view on the devices that differ in context and data
    parallel rank: they hold the same shard of everything else."""
    expert_data_parallel_rank: int
    """Which copy of that share."""
    engine_index: int
    engine_rank: int
    """Its shard of that engine."""


@dataclass(frozen=True)
class Topology:
    """All places of a run, for layouts that `mindrl.config.rules` accepts."""

    world_size: int
    devices_per_node: int
    tensor_parallel_size: int
    pipeline_parallel_size: int
    engine_size: int
    """Ranks per rollout engine."""
    context_parallel_size: int = 1
    expert_parallel_size: int = 1

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The topology that a configuration asks for."""
        return cls(
            world_size=config.cluster.world_size,
            devices_per_node=config.cluster.devices_per_node,
            tensor_parallel_size=config.actor.tensor_model_parallel_size,
            pipeline_parallel_size=config.actor.pipeline_model_parallel_size,
            engine_size=config.rollout.tensor_parallel_size,
            context_parallel_size=config.actor.context_parallel_size,
            expert_parallel_size=config.actor.expert_model_parallel_size,
        )

    @property
    def stage_size(self) -> int:
        """Ranks of one pipeline stage."""
        return self.world_size // self.pipeline_parallel_size

    @property
    def data_parallel_size(self) -> int:
        """Copies of the actor."""
        return self.stage_size // (self.tensor_parallel_size * self.context_parallel_size)

    @property
    def expert_data_parallel_size(self) -> int:
        """Copies of every expert."""
        return self.stage_size // (self.tensor_parallel_size * self.expert_parallel_size)

    @property
    def num_engines(self) -> int:
        """Rollout engines."""
        return self.world_size // self.engine_size

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Every rank's place, in order of rank."""
        return tuple(self._place(rank) for rank in range(self.world_size))

    def _place(self, rank: int) -> Place:
        """Megatron's default order is tp-cp-ep-dp-pp, fastest first: tensor-parallel neighbours share a node."""
        pipeline_parallel_rank, in_stage = divmod(rank, self.stage_size)
        rest, tensor_parallel_rank = divmod(in_stage, self.tensor_parallel_size)
        data_parallel_rank, context_parallel_rank = divmod(rest, self.context_parallel_size)
        expert_data_parallel_rank, expert_parallel_rank = divmod(rest, self.expert_parallel_size)
        return Place(
            rank=rank,
            node=rank // self.devices_per_node,
            device=rank % self.devices_per_node,
            tensor_parallel_rank=tensor_parallel_rank,
            context_parallel_rank=context_parallel_rank,
            data_parallel_rank=data_parallel_rank,
            pipeline_parallel_rank=pipeline_parallel_rank,
            expert_parallel_rank=expert_parallel_rank,
            expert_data_parallel_rank=expert_data_parallel_rank,
            engine_index=rank // self.engine_size,
            engine_rank=rank % self.engine_size,
        )
