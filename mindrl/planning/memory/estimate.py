"""The estimate: parts that a rank holds, and the phases in which it holds them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mindrl.config.schema import Config
from mindrl.planning.batch import BatchPlan
from mindrl.planning.memory import engine, host
from mindrl.planning.memory.activations import MicroBatchShape, stage_activations, widest_backward
from mindrl.planning.parameters import ParameterCounts, padded_vocab_size, rank_parameters
from mindrl.planning.stages import stage_layers
from mindrl.planning.topology import Topology
from mindrl.weight_maps import Architecture

SET_UP, ROLLOUT, OLD, REFERENCE = "set-up", "rollout", "old log-probs", "reference"
UPDATE, SYNC, SAVE = "update", "weight sync", "save"

CHUNK_TOKENS = 256
"""Tokens whose logits exist at once (`chunk_size` of the HAL's token_loss)."""
BLOCK_NUMBERS = 2**24
"""Logits that the HAL's kernels of log-probs work on at once on a device; on the host far fewer."""


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """Something that takes memory on the worst rank."""

    name: str
    bytes: int
    phases: tuple[str, ...]
    """Phases in which it is there."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of the rank that needs most, above what the process takes after its imports."""

    parts: tuple[MemoryPart, ...]
    phases: Mapping[str, int]
    """Bytes by phase, in the order of a step."""
    rank: int
    """The first of the ranks that need as much."""
    config: Config = field(repr=False)
    architecture: Architecture = field(repr=False)
    device_memory: int | None
    """Bytes of the device that the rollout engine takes its share of, where they were given."""
    engine_can_serve: bool
    """Whether the engine's cache holds at least one sequence of full length; vLLM refuses to start otherwise."""

    @property
    def peak(self) -> int:
        """Bytes of the largest phase."""
        return max(self.phases.values())

    @property
    def peak_phase(self) -> str:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: self.phases[phase])

    def fits(self, limit_bytes: int) -> bool:
        """Whether the peak stays within a device, and the engine's share of it can serve a request."""
        return self.peak <= limit_bytes and self.engine_can_serve

    def advice(self, limit_bytes: int) -> list[str]:
        """Keys whose change makes the run fit, one sentence each; nothing where it fits."""
        from mindrl.planning.memory.advice import advise  # it estimates changed configurations

        return advise(self, limit_bytes)


def estimate_memory(
    config: Config, architecture: Architecture, device_memory: int | None = None
) -> MemoryEstimate:
    """Estimate the memory of a layout that `mindrl.planning.check_model` accepts.

    `hal.accelerator: cpu` counts host memory; everything else, `auto` included, that of a device, where the rollout
    engine reserves `rollout.gpu_memory_utilization` of `device_memory` bytes. Where that is None, its cache is taken
    to be just large enough for all sequences of a step."""
    stages = rank_parameters(architecture, config.actor)
    candidates = [
        _of_stage(config, architecture, stage, held, device_memory) for stage, held in enumerate(stages)
    ]
    return max(candidates, key=lambda estimate: estimate.peak)


def _of_stage(
    config: Config,
    architecture: Architecture,
    stage: int,
    held: ParameterCounts,
    device_memory: int | None,
) -> MemoryEstimate:
    phases = _phases(config)
    on_host = host.is_host(config)
    training = _training(config, architecture, stage, held, phases)
    rollout = engine.engine_parts(config, architecture, device_memory)
    parts = [
        *training,
        *(MemoryPart(name, size, phases) for name, size in rollout.resident.items()),
        MemoryPart("engine activations and logits", rollout.temporary, (ROLLOUT,)),
        MemoryPart("weight sync buffers", _sync_buffers(config, architecture, on_host), (SYNC,)),
        MemoryPart("save buffers", _largest_table(config, architecture) * 4, (SAVE,)),
    ]
    if on_host:
        activations = next(part.bytes for part in training if part.name == "activations")
        parts += [
            MemoryPart("freed, not reusable", host.fragments(activations), (UPDATE,)),
            MemoryPart(
                "freed, not returned",
                host.retained(activations),
                tuple(phase for phase in phases if phase not in (SET_UP, UPDATE)),
            ),
            MemoryPart("libraries", host.LIBRARIES, phases),
        ]
    kept = tuple(part for part in parts if part.bytes)
    sums = {phase: sum(part.bytes for part in kept if phase in part.phases) for phase in phases}
    places = Topology.from_config(config).places
    rank = next(place.rank for place in places if place.pipeline_parallel_rank == stage)
    return MemoryEstimate(
        kept, sums, rank, config, architecture, device_memory, engine_can_serve=rollout.can_serve
    )


def _phases(config: Config) -> tuple[str, ...]:
    phases = [SET_UP, ROLLOUT]
    if config.recomputes_old_log_probs:
        phases.append(OLD)
    if config.has_reference:
        phases.append(REFERENCE)
    return (*phases, UPDATE, SYNC, SAVE)


def _training(
    config: Config, architecture: Architecture, stage: int, held: ParameterCounts, phases: tuple[str, ...]
) -> list[MemoryPart]:
    """What the trainer holds: weights, gradients, AdamW's state, and what passes leave."""
    item = engine.ITEM_SIZES[config.actor.dtype]
    weights, sharded = held.total * item, _optimizer_share(config, held)
    after_first = tuple(phase for phase in phases if phase != SET_UP)
    batch = BatchPlan.from_config(config)
    layers = stage_layers(architecture.num_layers, config.actor)
    last = stage == len(layers) - 1
    shape = _shape(config, config.actor.micro_batch_size)
    one = stage_activations(architecture, layers[stage], shape, config.actor, last=last)
    in_flight = min(len(layers) - stage, batch.num_micro_batches)
    passes = tuple(phase for phase in (OLD, REFERENCE) if phase in phases)
    return [
        MemoryPart("actor weights", weights, phases),
        MemoryPart("gradients", held.total * 4, phases),
        MemoryPart("optimizer: float32 weights", sharded * 4 if item < 4 else 0, phases),
        MemoryPart("optimizer: moments", sharded * 8, after_first),
        MemoryPart("reference weights", weights if config.has_reference else 0, phases),
        MemoryPart("activations", one * in_flight, (UPDATE,)),
        MemoryPart("logits and gradients in passing", _backward(config, architecture, held, last), (UPDATE,)),
        MemoryPart(
            "activations and logits without gradient", _forward_only(config, architecture, last), passes
        ),
    ]


def _optimizer_share(config: Config, held: ParameterCounts) -> int:
    """Parameters whose state a rank keeps: the distributed optimizer deals them out to the copies."""
    topology = Topology.from_config(config)
    copies = topology.data_parallel_size * topology.context_parallel_size
    return -(-held.outside_experts // copies) + -(-held.experts // topology.expert_data_parallel_size)


def _shape(config: Config, rows: int) -> MicroBatchShape:
    actor = config.actor
    return MicroBatchShape(
        tokens=-(-rows * config.max_sequence_length // actor.context_parallel_size),
        item_size=engine.ITEM_SIZES[actor.dtype],
        tensor_parallel_size=actor.tensor_model_parallel_size,
        sequence_parallel=actor.sequence_parallel,
        plain_norms=host.is_host(config),
    )


def _backward(config: Config, architecture: Architecture, held: ParameterCounts, last: bool) -> int:
    """The largest of: logits beside the output layer's gradient, one layer's gradients, both tables' gradients."""
    shape = _shape(config, config.actor.micro_batch_size)
    item = shape.item_size
    output = (held.output or held.embedding) if last else 0
    logits = output * 4 + (_logits(config, architecture, all_of_chunk=True) if last else 0)
    tied = output * item if last and architecture.tied_embeddings and held.embedding else 0
    layer = tied + widest_backward(architecture, shape)
    tables = tied + held.embedding * item
    step = held.total * item if item < 4 else 0
    return max(logits, layer, tables, step)


def _logits(config: Config, architecture: Architecture, *, all_of_chunk: bool) -> int:
    """A block of logits and its exponentials in float32, and the narrow type's own; with gradients, a whole chunk's."""
    rows = config.actor.micro_batch_size * config.data.max_response_length
    tp, item = config.actor.tensor_model_parallel_size, engine.ITEM_SIZES[config.actor.dtype]
    chunk = min(CHUNK_TOKENS, rows) * padded_vocab_size(architecture, tp) // tp
    block = min(chunk, BLOCK_NUMBERS)
    narrow = block * item if item < 4 else 0
    return 4 * (chunk + block if all_of_chunk else 2 * block) + narrow


def _forward_only(config: Config, architecture: Architecture, last: bool) -> int:
    """A layer's widest tensors, or a block of logits."""
    reference = config.reference.micro_batch_size if config.reference else None
    rows = max(config.actor.micro_batch_size, reference or 0)
    layer = widest_backward(architecture, _shape(config, rows))
    return max(layer, _logits(config, architecture, all_of_chunk=False) if last else 0)


def _largest_table(config: Config, architecture: Architecture) -> int:
    """Numbers in a rank's shard of the vocabulary."""
    tp = config.actor.tensor_model_parallel_size
    return padded_vocab_size(architecture, tp) // tp * architecture.hidden_size


def _sync_buffers(config: Config, architecture: Architecture, on_host: bool) -> int:
    """Copies of the largest tensor: shards of all ranks, put together, cloned; in the engine its new shard, and on
    the host that one packed."""
    item = engine.ITEM_SIZES[config.actor.dtype]
    full = architecture.vocab_size * architecture.hidden_size * item
    gathered = 2 * full if config.actor.tensor_model_parallel_size > 1 else 0
    shard = full // config.rollout.tensor_parallel_size
    return gathered + full + shard * (2 if on_host else 1)
