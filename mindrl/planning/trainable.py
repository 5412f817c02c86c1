"""What can be planned and not be trained: layouts, and models that Megatron-core does not compute as transformers."""

from mindrl.config.schema import Config
from mindrl.errors import RequestError
from mindrl.planning.checks import Check, check_model
from mindrl.weight_maps import Architecture

GROUP_MEMBERS = 2
"""Of a group of experts, so many of the best scores add up to the group's own (DeepSeek-V3, arXiv:2412.19437)."""


def check_trainable(config: Config, architecture: Architecture) -> None:
    """`check_model`, and everything that keeps this run from being trained, together in one `RequestError`."""
    check_model(config, architecture)
    problems = [sentence for check in CHECKS if (sentence := check(config, architecture)) is not None]
    if problems:
        raise RequestError("\n".join(problems))


def sequences_are_whole(config: Config, architecture: Architecture) -> str | None:
    """Context parallelism is planned for only."""
    del architecture
    size = config.actor.context_parallel_size
    if size == 1:
        return None
    return (
        f"actor.context_parallel_size: found {size}; sizes above 1 are not in training yet, `mindrl plan` works; "
        "set it to 1"
    )


def router_normalizes_as_megatron(config: Config, architecture: Architecture) -> str | None:
    """Of one softmax score there is nothing to normalise; sigmoid scores are normalised where there are several."""
    del config
    moe = architecture.experts
    if moe is None:
        return None
    several = moe.experts_per_token > 1
    if moe.scoring == "softmax" and (several or not moe.normalize_top_k):
        return None
    if moe.scoring == "sigmoid" and several == moe.normalize_top_k:
        return None
    return (
        f"config.json: norm_topk_prob {str(moe.normalize_top_k).lower()} with num_experts_per_tok "
        f"{moe.experts_per_token} and {moe.scoring} scores is a router that Megatron-core does not compute, so this "
        "model can't be trained"
    )


def groups_are_chosen_as_megatron(config: Config, architecture: Architecture) -> str | None:
    """Megatron-core scores a group by its `experts_per_token // groups_per_token` best experts, transformers by 2."""
    del config
    moe = architecture.experts
    if moe is None or moe.groups_per_token == moe.num_groups:
        return None
    if moe.experts_per_token // moe.groups_per_token == GROUP_MEMBERS:
        return None
    return (
        f"config.json: num_experts_per_tok {moe.experts_per_token} with topk_group {moe.groups_per_token}: Megatron-core "
        f"would choose groups by their best {moe.experts_per_token // moe.groups_per_token} experts and not by "
        f"{GROUP_MEMBERS}, so this model can't be trained"
    )


def positions_are_megatrons(config: Config, architecture: Architecture) -> str | None:
    """Each kind of attention has its own stretched rotary embedding."""
    del config
    kind = (architecture.rope_scaling or {}).get("rope_type")
    latent = architecture.latent_attention is not None
    if kind is None or kind == ("yarn" if latent else "llama3"):
        return None
    attention = "multi-head latent attention" if latent else "grouped-query attention"
    return f"config.json: rotary embedding of type {kind} with {attention} can't be trained"


def latent_attention_splits_sequences(config: Config, architecture: Architecture) -> str | None:
    """Without sequence parallelism, tensor-parallel ranks add gradients of what they all hold more than once."""
    size = config.actor.tensor_model_parallel_size
    if architecture.latent_attention is None or size == 1 or config.actor.sequence_parallel:
        return None
    return (
        f"actor.sequence_parallel: false; multi-head latent attention on actor.tensor_model_parallel_size {size} has "
        "wrong gradients in Megatron-core without it; set it to true"
    )


CHECKS: tuple[Check, ...] = (
    sequences_are_whole,
    router_normalizes_as_megatron,
    groups_are_chosen_as_megatron,
    positions_are_megatrons,
    latent_attention_splits_sequences,
)
