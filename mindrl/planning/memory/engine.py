"""The rollout engine's shard: weights, cache of keys and values, and what one engine step needs."""

from dataclasses import dataclass

from mindrl.config.schema import Config
from mindrl.planning.batch import sequences_per_engine
from mindrl.planning.memory import host
from mindrl.planning.parameters import stage_parameters
from mindrl.weight_maps import Architecture

ITEM_SIZES = {"float32": 4, "bfloat16": 2}
VOCABULARY_MULTIPLE = 64
"""vLLM pads the vocabulary to one."""
BLOCK_TOKENS = 128
"""Tokens of a cache block of vLLM on the host; smaller on devices."""
STEP_TOKENS = 2048
"""Tokens an engine step computes at least, where that many wait (vLLM's max_num_batched_tokens)."""


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Bytes on one rank."""

    resident: dict[str, int]
    """By part."""
    temporary: int
    """While a step runs."""
    can_serve: bool = True
    """The cache holds a sequence of full length."""


def engine_parts(config: Config, architecture: Architecture, device_memory: int | None) -> EngineMemory:
    """What vLLM holds on each rank of an engine."""
    weights, cache = engine_weights(config, architecture), cache_bytes(config, architecture)
    temporary = _step(config, architecture)
    if host.is_host(config):
        tables = _table(config, architecture) * ITEM_SIZES[config.actor.dtype]
        parts = {
            "engine weights": weights,
            "engine: packed output layer and embedding": 2 * tables,
            "KV cache": cache,
        }
        return EngineMemory(parts, temporary)
    if device_memory is None:
        return EngineMemory({"engine weights": weights, "KV cache": cache}, temporary)
    # vLLM fills its share with cache once it has set aside weights and the largest step.
    share = int(config.rollout.gpu_memory_utilization * device_memory)
    rest = max(0, share - weights - temporary)
    one = -(-config.max_sequence_length // BLOCK_TOKENS) * BLOCK_TOKENS
    can_serve = rest >= one * cache_bytes_per_token(config, architecture)
    return EngineMemory({"engine weights": weights, "KV cache": rest}, temporary, can_serve)


def engine_weights(config: Config, architecture: Architecture) -> int:
    """Bytes of a rank's weights; experts are cut like everything else."""
    held = stage_parameters(
        architecture,
        range(architecture.num_layers),
        first=True,
        last=True,
        tensor_parallel_size=config.rollout.tensor_parallel_size,
    )
    return held.total * ITEM_SIZES[config.actor.dtype]


def cache_bytes(config: Config, architecture: Architecture) -> int:
    """Keys and values of all sequences that run at once, at their full length, in whole blocks."""
    blocks = sequences_per_engine(config) * (-(-config.max_sequence_length // BLOCK_TOKENS) + 1) + 1
    return blocks * BLOCK_TOKENS * cache_bytes_per_token(config, architecture)


def cache_bytes_per_token(config: Config, architecture: Architecture) -> int:
    """Of a rank, over all layers."""
    latent = architecture.latent_attention
    if latent is not None:
        width = latent.kv_lora_rank + latent.qk_rope_head_dim  # whole on every rank
    else:
        width = 2 * max(1, architecture.num_kv_heads // config.rollout.tensor_parallel_size)
        width *= architecture.head_dim
    return width * architecture.num_layers * ITEM_SIZES[config.actor.dtype]


def _step(config: Config, architecture: Architecture) -> int:
    """Widest tensors of a layer over a step's prompt tokens, and three float32 rows of logits a sequence."""
    tokens = max(config.max_sequence_length, STEP_TOKENS)
    if host.is_host(config):
        tokens = min(tokens, sequences_per_engine(config) * config.data.max_prompt_length)
    width = 3 * architecture.intermediate_size // config.rollout.tensor_parallel_size
    layer = tokens * (width + 3 * architecture.hidden_size) * ITEM_SIZES[config.actor.dtype]
    return max(layer, 3 * 4 * sequences_per_engine(config) * architecture.vocab_size)


def _table(config: Config, architecture: Architecture) -> int:
    """Numbers in a rank's shard of the vocabulary."""
    rows = -(-architecture.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    return rows // config.rollout.tensor_parallel_size * architecture.hidden_size
