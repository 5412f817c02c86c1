"""Rules between the configuration and the model's architecture. They need its config.json, no weights, no device."""

from collections.abc import Callable

from mindrl.config.schema import Config
from mindrl.errors import RequestError
from mindrl.planning.stages import stage_layers
from mindrl.weight_maps import Architecture

Check = Callable[[Config, Architecture], str | None]

_ACTOR = "actor.tensor_model_parallel_size"
_ENGINE = "rollout.tensor_parallel_size"


def check_model(config: Config, architecture: Architecture) -> None:
    """Raise `RequestError` with everything that keeps this model from being laid out as the configuration asks."""
    problems = [sentence for check in CHECKS if (sentence := check(config, architecture)) is not None]
    if problems:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise RequestError("\n  ".join([f"model {config.model.path}: {count} with this layout", *problems]))


def heads_divide_among_actor_devices(config: Config, architecture: Architecture) -> str | None:
    """Megatron gives each tensor-parallel device whole heads, and the weight maps do not repeat key-value heads."""
    size = config.actor.tensor_model_parallel_size
    problem = _heads(_ACTOR, size, architecture)
    if problem is None and architecture.num_kv_heads % size:
        problem = f"{_ACTOR}: the model's {architecture.num_kv_heads} key-value heads can't be divided among {size} devices"
    return problem


def heads_divide_among_engine_devices(config: Config, architecture: Architecture) -> str | None:
    """So does the rollout engine."""
    return _heads(_ENGINE, config.rollout.tensor_parallel_size, architecture)


def mlp_divides_among_actor_devices(config: Config, architecture: Architecture) -> str | None:
    """Each tensor-parallel device holds as many rows of the gated MLP."""
    return _mlp(_ACTOR, config.actor.tensor_model_parallel_size, architecture)


def mlp_divides_among_engine_devices(config: Config, architecture: Architecture) -> str | None:
    """So does each device of a rollout engine."""
    return _mlp(_ENGINE, config.rollout.tensor_parallel_size, architecture)


def layers_divide_among_stages(config: Config, architecture: Architecture) -> str | None:
    """Each pipeline stage holds as many layers, unless the user lays them out."""
    try:
        stage_layers(architecture.num_layers, config.actor)
    except RequestError as error:
        return str(error)
    return None


def recomputed_pieces_divide_stages(config: Config, architecture: Architecture) -> str | None:
    """Megatron-core looks for the layers of a last, shorter piece beyond the end of the stage."""
    settings = config.actor.transformer_config
    piece = settings.get("recompute_num_layers")
    if settings.get("recompute_method") != "uniform" or not isinstance(piece, int) or piece < 1:
        return None
    if layers_divide_among_stages(config, architecture):
        return None
    lengths = sorted({len(layers) for layers in stage_layers(architecture.num_layers, config.actor)})
    if not any(length % piece for length in lengths):
        return None
    return (
        f"actor.transformer_config.recompute_num_layers: stages of {' and '.join(map(str, lengths))} layers can't be "
        f"divided into pieces of {piece}; use a divisor, such as 1, or recompute_method: block"
    )


def experts_are_there_to_share(config: Config, architecture: Architecture) -> str | None:
    """Expert parallelism needs experts, as many on each device."""
    key, size = "actor.expert_model_parallel_size", config.actor.expert_model_parallel_size
    if size == 1:
        return None
    if architecture.experts is None:
        return f"{key}: found {size}, and the model has no experts to share ({architecture.model_type} is dense); set it to 1"
    if architecture.experts.num_experts % size:
        return f"{key}: the model's {architecture.experts.num_experts} experts can't be divided among {size} devices"
    return None


def experts_with_tensor_parallelism_split_sequences(config: Config, architecture: Architecture) -> str | None:
    """Megatron-core trains experts with tensor parallelism only where tokens are split among its devices."""
    size = config.actor.tensor_model_parallel_size
    if architecture.experts is None or size == 1 or config.actor.sequence_parallel:
        return None
    return (
        f"actor.sequence_parallel: false; a model with experts on actor.tensor_model_parallel_size {size} needs it, "
        "because each of these devices sends its own tokens to the experts; set it to true"
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
    widths = {"intermediate_size": architecture.intermediate_size}
    if (moe := architecture.experts) is not None:
        if len(moe.dense_layers) == 0:
            widths = {}  # the key is there, and no layer has that MLP
        widths |= {
            "expert width": moe.intermediate_size,
            "width of shared experts": moe.shared_intermediate_size,
        }
    uneven = [f"{name}, {width}," for name, width in widths.items() if width % size]
    return f"{key}: the model's {' and '.join(uneven)} can't be divided by {size}" if uneven else None


CHECKS: tuple[Check, ...] = (
    heads_divide_among_actor_devices,
    heads_divide_among_engine_devices,
    mlp_divides_among_actor_devices,
    mlp_divides_among_engine_devices,
    layers_divide_among_stages,
    recomputed_pieces_divide_stages,
    experts_are_there_to_share,
    experts_with_tensor_parallelism_split_sequences,
    sequences_fit_the_positions,
)
"""The vocabulary is in none of them: Megatron and the engines pad it to a multiple of their devices."""
