"""Rules between the configuration and the model's architecture. They need its config.json, no weights, no device."""

from collections.abc import Callable

from mindrl.config.schema import Config
from mindrl.errors import RequestError
from mindrl.weight_maps import Architecture

Check = Callable[[Config, Architecture], str | None]

UNEVEN_STAGES = frozenset(
    {
        "account_for_embedding_in_pipeline_split",
        "account_for_loss_in_pipeline_split",
        "num_layers_in_first_pipeline_stage",
        "num_layers_in_last_pipeline_stage",
    }
)
"""Fields of `actor.transformer_config` by which stages get different numbers of layers."""


def check_model(config: Config, architecture: Architecture) -> None:
    """Raise `RequestError` with everything that keeps this model from being trained in this layout."""
    problems = [sentence for check in CHECKS if (sentence := check(config, architecture)) is not None]
    if problems:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise RequestError("\n  ".join([f"model {config.model.path}: {count} with this layout", *problems]))


def heads_divide_among_actor_devices(config: Config, architecture: Architecture) -> str | None:
    """Megatron gives each tensor-parallel device whole heads, and the weight maps do not repeat key-value heads."""
    key, size = "actor.tensor_model_parallel_size", config.actor.tensor_model_parallel_size
    problem = _heads(key, size, architecture)
    if problem is None and architecture.num_kv_heads % size:
        problem = f"{key}: the model's {architecture.num_kv_heads} key-value heads can't be divided among {size} devices"
    return problem


def heads_divide_among_engine_devices(config: Config, architecture: Architecture) -> str | None:
    """So does the rollout engine."""
    return _heads("rollout.tensor_parallel_size", config.rollout.tensor_parallel_size, architecture)


def mlp_divides_among_actor_devices(config: Config, architecture: Architecture) -> str | None:
    """Each tensor-parallel device holds as many rows of the gated MLP."""
    key = "actor.tensor_model_parallel_size"
    return _mlp(key, config.actor.tensor_model_parallel_size, architecture)


def mlp_divides_among_engine_devices(config: Config, architecture: Architecture) -> str | None:
    """So does each device of a rollout engine."""
    return _mlp("rollout.tensor_parallel_size", config.rollout.tensor_parallel_size, architecture)


def layers_divide_among_stages(config: Config, architecture: Architecture) -> str | None:
    """Each pipeline stage holds as many layers, unless the user lays them out; then Megatron checks the result."""
    stages = config.actor.pipeline_model_parallel_size
    if architecture.num_layers % stages == 0 or UNEVEN_STAGES & set(config.actor.transformer_config):
        return None
    return (
        f"actor.pipeline_model_parallel_size: the model's {architecture.num_layers} layers can't be divided into "
        f"{stages} stages of equal length; actor.transformer_config can lay them out unequally "
        f"({', '.join(sorted(UNEVEN_STAGES))})"
    )


def sequences_fit_the_positions(config: Config, architecture: Architecture) -> str | None:
    """The longest prompt with the longest response has a position for every token."""
    if config.max_sequence_length <= architecture.max_position_embeddings:
        return None
    return (
        f"data.max_prompt_length + data.max_response_length: {config.data.max_prompt_length} + "
        f"{config.data.max_response_length} tokens are more than the model's max_position_embeddings, "
        f"{architecture.max_position_embeddings}"
    )


def _heads(key: str, size: int, architecture: Architecture) -> str | None:
    heads, kv_heads = architecture.num_heads, architecture.num_kv_heads
    if heads % size:
        return f"{key}: the model's {heads} attention heads can't be divided among {size} devices"
    if kv_heads % size and size % kv_heads:
        return (
            f"{key}: {size} is neither a multiple nor a divisor of the model's {kv_heads} key-value heads, which are "
            "divided among devices or repeated on them"
        )
    return None


def _mlp(key: str, size: int, architecture: Architecture) -> str | None:
    if architecture.intermediate_size % size == 0:
        return None
    return (
        f"{key}: the model's intermediate_size, {architecture.intermediate_size}, can't be divided by {size}"
    )


CHECKS: tuple[Check, ...] = (
    heads_divide_among_actor_devices,
    heads_divide_among_engine_devices,
    mlp_divides_among_actor_devices,
    mlp_divides_among_engine_devices,
    layers_divide_among_stages,
    sequences_fit_the_positions,
)
"""The vocabulary is in none of them: Megatron and the engines pad it to a multiple of their devices."""
