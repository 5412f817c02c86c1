"""All that can be told of a run before it starts, as `mindrl plan` shows it. Nothing is started or imported for it."""

from dataclasses import asdict, dataclass
from typing import Any

from mindrl.config.schema import Config
from mindrl.errors import RequestError
from mindrl.planning.batch import BatchPlan
from mindrl.planning.checks import check_model
from mindrl.planning.memory import MemoryEstimate, estimate_memory
from mindrl.planning.model import planned_architecture
from mindrl.planning.parameters import ParameterCounts, active_parameters, model_parameters, rank_parameters
from mindrl.planning.stages import stage_layers
from mindrl.planning.topology import Topology
from mindrl.planning.trainable import check_trainable
from mindrl.weight_maps import Architecture

JSON_VERSION = 1
"""Of `RunPlan.as_dict`: rises when a key goes or changes its meaning, not when one is added."""


@dataclass(frozen=True)
class RunPlan:
    """A run that `mindrl.config.rules` and `check_model` accept, worked out."""

    config: Config
    architecture: Architecture
    topology: Topology
    batch: BatchPlan
    whole: ParameterCounts
    """Parameters of the model."""
    stages: tuple[range, ...]
    """Layers of each pipeline stage."""
    stage_parameters: tuple[ParameterCounts, ...]
    """Parameters that each rank of a stage holds."""
    memory: MemoryEstimate
    memory_limit: int | None
    """Bytes of a device, where they were given."""
    notes: tuple[str, ...]
    """What keeps the run from being trained today, and what will make it slow."""

    @property
    def fits(self) -> bool | None:
        """Whether the run fits into the limit; None without one."""
        return None if self.memory_limit is None else self.memory.fits(self.memory_limit)

    @property
    def roles(self) -> tuple[str, ...]:
        """What every rank does."""
        return ("actor", "reference", "rollout") if self.config.has_reference else ("actor", "rollout")

    @property
    def tokens_per_step(self) -> int:
        """At most: every prompt and response as long as they may be."""
        return self.batch.num_samples * self.config.max_sequence_length

    @property
    def prompts_per_engine(self) -> int:
        """At most; prompts are dealt out in turn."""
        return -(-self.batch.num_prompts // self.topology.num_engines)

    def as_dict(self) -> dict[str, Any]:
        """For machines; sizes in bytes, lengths in tokens."""
        return {
            "version": JSON_VERSION,
            "model": self._model(),
            "topology": self._topology(),
            "batch": self._batch(),
            "memory": self._memory(),
            "notes": list(self.notes),
        }

    def _model(self) -> dict[str, Any]:
        stages = [
            {"first_layer": layers.start, "num_layers": len(layers), "parameters_per_rank": _counts(held)}
            for layers, held in zip(self.stages, self.stage_parameters, strict=True)
        ]
        return {
            "path": str(self.config.model.path),
            "model_type": self.architecture.model_type,
            "num_layers": self.architecture.num_layers,
            "parameters": _counts(self.whole),
            "active_parameters": active_parameters(self.architecture),
            "stages": stages,
        }

    def _topology(self) -> dict[str, Any]:
        topology = self.topology
        return {
            "world_size": topology.world_size,
            "num_nodes": topology.world_size // topology.devices_per_node,
            "devices_per_node": topology.devices_per_node,
            "tensor_parallel_size": topology.tensor_parallel_size,
            "pipeline_parallel_size": topology.pipeline_parallel_size,
            "context_parallel_size": topology.context_parallel_size,
            "expert_parallel_size": topology.expert_parallel_size,
            "data_parallel_size": topology.data_parallel_size,
            "expert_data_parallel_size": topology.expert_data_parallel_size,
            "num_engines": topology.num_engines,
            "engine_size": topology.engine_size,
            "roles": list(self.roles),
            "ranks": [asdict(place) for place in topology.places],
        }

    def _batch(self) -> dict[str, Any]:
        batch = self.batch
        return {
            "prompts_per_step": batch.num_prompts,
            "samples_per_prompt": batch.n_samples,
            "samples_per_step": batch.num_samples,
            "tokens_per_step_at_most": self.tokens_per_step,
            "prompts_per_engine_at_most": self.prompts_per_engine,
            "optimizer_steps_per_step": batch.num_mini_batches,
            "samples_per_optimizer_step": batch.samples_per_mini_batch,
            "micro_batches_per_optimizer_step": batch.num_micro_batches,
            "samples_per_micro_batch": batch.micro_batch_size,
            "steps": batch.total_steps,
            "optimizer_steps": batch.optimizer_steps,
            "separate_old_log_probs": self.config.recomputes_old_log_probs,
        }

    def _memory(self) -> dict[str, Any]:
        memory, limit = self.memory, self.memory_limit
        return {
            "rank": memory.rank,
            "parts": [
                {"name": part.name, "bytes": part.bytes, "phases": list(part.phases)} for part in memory.parts
            ],
            "phases": dict(memory.phases),
            "peak": memory.peak,
            "peak_phase": memory.peak_phase,
            "limit": limit,
            "fits": self.fits,
            "advice": [] if limit is None else memory.advice(limit),
        }


def make_plan(config: Config, memory_limit: int | None = None) -> RunPlan:
    """`RequestError` where the model's config.json is missing, or its model can't be laid out as asked."""
    architecture = planned_architecture(config)
    check_model(config, architecture)
    topology = Topology.from_config(config)
    return RunPlan(
        config=config,
        architecture=architecture,
        topology=topology,
        batch=BatchPlan.from_config(config),
        whole=model_parameters(architecture),
        stages=stage_layers(architecture.num_layers, config.actor),
        stage_parameters=rank_parameters(architecture, config.actor),
        memory=estimate_memory(config, architecture, memory_limit),
        memory_limit=memory_limit,
        notes=(*_not_trainable(config, architecture), *_across_nodes(topology)),
    )


def _counts(counts: ParameterCounts) -> dict[str, int]:
    return {"total": counts.total, **asdict(counts)}


def _not_trainable(config: Config, architecture: Architecture) -> list[str]:
    try:
        check_trainable(config, architecture)
    except RequestError as error:
        return str(error).splitlines()
    return []


def _across_nodes(topology: Topology) -> list[str]:
    """Groups that talk in every layer belong on one node. A group lies within so many neighbouring ranks."""
    tensor, per_node = topology.tensor_parallel_size, topology.devices_per_node
    neighbours = {
        "actor.tensor_model_parallel_size": tensor,
        "actor.context_parallel_size": tensor * topology.context_parallel_size,
        "actor.expert_model_parallel_size": tensor * topology.expert_parallel_size,
        "rollout.tensor_parallel_size": topology.engine_size,
    }
    if topology.context_parallel_size == 1:
        del neighbours["actor.context_parallel_size"]
    if topology.expert_parallel_size == 1:
        del neighbours["actor.expert_model_parallel_size"]
    return [
        f"{key}: its groups lie within {span} neighbouring devices and a node has {per_node}, so some of them reach "
        "across nodes, and every layer waits for the network between these"
        for key, span in neighbours.items()
        if topology.world_size > per_node and per_node % span
    ]
