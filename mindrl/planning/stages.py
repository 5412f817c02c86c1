"""Which layers each pipeline stage holds."""

from mindrl.config.actor import ActorConfig
from mindrl.config.rules.layout import UNEVEN_STAGES
from mindrl.errors import RequestError

EMBEDDING = "account_for_embedding_in_pipeline_split"
LOSS = "account_for_loss_in_pipeline_split"
FIRST = "num_layers_in_first_pipeline_stage"
LAST = "num_layers_in_last_pipeline_stage"


def stage_layers(num_layers: int, actor: ActorConfig) -> tuple[range, ...]:
    """The layers of every stage, as Megatron-core lays them out; `RequestError` where it would refuse to.

    Stages share the layers equally. `UNEVEN_STAGES` set the first and the last stage's number, or count the embedding
    and the loss as a layer of the stage that they are in."""
    counts = _counts(num_layers, actor)
    starts = [sum(counts[:stage]) for stage in range(len(counts))]
    return tuple(range(start, start + count) for start, count in zip(starts, counts, strict=True))


def _counts(num_layers: int, actor: ActorConfig) -> list[int]:
    stages, given = actor.pipeline_model_parallel_size, actor.transformer_config
    fixed = {0: given.get(FIRST), stages - 1: given.get(LAST)}
    extra = {0: bool(given.get(EMBEDDING)), stages - 1: bool(given.get(LOSS))}
    if stages == 1:
        return [num_layers]
    for stage, count in fixed.items():
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
            key = FIRST if stage == 0 else LAST
            raise RequestError(
                f"actor.transformer_config.{key}: found {count!r}, expected a positive number of layers"
            )
    if any(extra.values()) and any(count is not None for count in fixed.values()):
        raise RequestError(
            f"actor.transformer_config: {EMBEDDING} and {LOSS} share the layers equally, so they can't stand beside "
            f"{FIRST} and {LAST}"
        )
    fixed = {stage: count for stage, count in fixed.items() if count is not None}
    left, stages_left = num_layers - sum(fixed.values()), stages - len(fixed)
    if any(extra.values()):
        left += sum(extra.values())
    if left < 0 or (left % stages_left if stages_left else left):
        raise RequestError(_refusal(num_layers, actor, left, stages_left))
    equal = left // stages_left if stages_left else 0
    return [fixed.get(stage, equal - extra.get(stage, False)) for stage in range(stages)]


def _refusal(num_layers: int, actor: ActorConfig, left: int, stages_left: int) -> str:
    stages = actor.pipeline_model_parallel_size
    given = {
        key: actor.transformer_config[key] for key in sorted(UNEVEN_STAGES & set(actor.transformer_config))
    }
    if not given:
        return (
            f"actor.pipeline_model_parallel_size: the model's {num_layers} layers can't be divided into "
            f"{stages} stages of equal length; actor.transformer_config can lay them out unequally "
            f"({', '.join(sorted(UNEVEN_STAGES))})"
        )
    settings = ", ".join(f"{key}: {value}" for key, value in given.items())
    return (
        f"actor.transformer_config: with {settings}, {left} of the model's {num_layers} layers are left for "
        f"{stages_left} of {stages} stages, and these get equal numbers of layers"
    )
