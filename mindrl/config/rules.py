"""Rules between keys that need no files and no devices: each says what is wrong and what to do, or returns None.

They run together, so that one attempt shows every broken rule. Rules that need the model's architecture are in
`mindrl.planning.checks`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mindrl.config.recomputation import recomputation_problem

if TYPE_CHECKING:
    from mindrl.config.schema import Config

Rule = Callable[["Config"], str | None]
RULES: list[Rule] = []

UNEVEN_STAGES = frozenset(
    {
        "account_for_embedding_in_pipeline_split",
        "account_for_loss_in_pipeline_split",
        "num_layers_in_first_pipeline_stage",
        "num_layers_in_last_pipeline_stage",
    }
)
"""Fields of `actor.transformer_config` by which stages get different numbers of layers."""

_NO_VIRTUAL_PIPELINE = "each device holds one stage; interleaved (virtual) pipelines are not in training yet"
LAYOUT_FIELDS = {
    "tensor_model_parallel_size": "actor.tensor_model_parallel_size decides it",
    "pipeline_model_parallel_size": "actor.pipeline_model_parallel_size decides it",
    "context_parallel_size": "actor.context_parallel_size decides it",
    "expert_model_parallel_size": "actor.expert_model_parallel_size decides it",
    "expert_tensor_parallel_size": "experts are cut as everything else, by actor.tensor_model_parallel_size",
    "sequence_parallel": "actor.sequence_parallel decides it",
    "virtual_pipeline_model_parallel_size": _NO_VIRTUAL_PIPELINE,
    "num_layers_per_virtual_pipeline_stage": _NO_VIRTUAL_PIPELINE,
    "pipeline_model_parallel_layout": f"{', '.join(sorted(UNEVEN_STAGES))} lay out stages",
}
"""Names that would decide a layout behind the back of the actor's own keys, and what to do instead."""


def broken(config: Config) -> list[str]:
    """The sentence of every rule that the configuration breaks."""
    return [sentence for check in RULES if (sentence := check(config)) is not None]


def rule(check: Rule) -> Rule:
    """Add a rule to the table; its docstring appears in the reference page."""
    RULES.append(check)
    return check


@rule
def actor_layout_fits_the_world(config: Config) -> str | None:
    """The number of devices is a multiple of tensor x pipeline x context parallel size."""
    actor, world_size = config.actor, config.cluster.world_size
    if world_size % actor.model_parallel_size == 0:
        return None
    context = (
        f" x actor.context_parallel_size {actor.context_parallel_size}"
        if actor.context_parallel_size > 1
        else ""
    )
    return (
        f"cluster: {world_size} devices ({config.cluster.num_nodes} nodes x {config.cluster.devices_per_node}) can't "
        f"be divided into copies of the actor, which take {actor.model_parallel_size} each "
        f"(actor.tensor_model_parallel_size {actor.tensor_model_parallel_size} x "
        f"actor.pipeline_model_parallel_size {actor.pipeline_model_parallel_size}{context}); change one of them"
    )


@rule
def experts_are_shared_within_a_stage(config: Config) -> str | None:
    """Expert parallel size divides data x context parallel size: its devices hold the same shard of everything else."""
    if actor_layout_fits_the_world(config):
        return None
    size = config.actor.expert_model_parallel_size
    peers = config.data_parallel_size * config.actor.context_parallel_size
    if peers % size == 0:
        return None
    return (
        f"actor.expert_model_parallel_size: {size} devices share the experts of a layer, and the {peers} devices that "
        f"hold the same shard of it ({config.data_parallel_size} copies of the actor x actor.context_parallel_size "
        f"{config.actor.context_parallel_size}) can't be divided into groups of {size}; use a divisor of {peers}"
    )


@rule
def layout_has_its_own_keys(config: Config) -> str | None:
    """`actor.transformer_config` sets no layout: sizes are keys of `actor`, and there is no interleaved pipeline."""
    given = sorted(LAYOUT_FIELDS.keys() & config.actor.transformer_config.keys())
    if not given:
        return None
    return "; ".join(
        f"actor.transformer_config.{name}: can't be set here: {LAYOUT_FIELDS[name]}" for name in given
    )


@rule
def uneven_stages_need_stages(config: Config) -> str | None:
    """Fields of `actor.transformer_config` that lay out pipeline stages need more than one."""
    given = sorted(name for name in config.actor.transformer_config if name in UNEVEN_STAGES)
    if not given or config.actor.pipeline_model_parallel_size > 1:
        return None
    return (
        f"actor.transformer_config: {', '.join(given)} lay out pipeline stages, and "
        "actor.pipeline_model_parallel_size is 1; leave them out, or set it above 1"
    )


@rule
def recomputation_is_complete(config: Config) -> str | None:
    """The `recompute_` fields of `actor.transformer_config` are ones that Megatron-core knows, and belong together."""
    problem = recomputation_problem(config.actor.transformer_config)
    return problem and f"actor.transformer_config.{problem}"


@rule
def kl_in_the_loss_has_a_gradient(config: Config) -> str | None:
    """In the loss, the KL estimator is k2 or k3: the gradient of k1 is zero in expectation, so it would not act."""
    kl = config.algorithm.kl
    if kl.coef == 0 or kl.placement == "reward" or kl.estimator != "k1":
        return None
    return (
        "algorithm.kl: k1 in the loss adds noise and no pull, because the expectation of its gradient is zero; use "
        "algorithm.kl.estimator=k3 (or k2), or algorithm.kl.placement=reward"
    )


@rule
def kl_has_a_reference(config: Config) -> str | None:
    """`reference` is not null where `algorithm.kl.coef` is above 0."""
    if config.reference is not None or not config.has_reference:
        return None
    return (
        f"reference: null, but algorithm.kl.coef is {config.algorithm.kl.coef:g}, and that penalty is measured against "
        "the reference policy; leave `reference` out (it is built where it is needed), or set algorithm.kl.coef to 0"
    )


@rule
def groups_can_be_compared(config: Config) -> str | None:
    """`rollout.n_samples` is above 1: the advantage of a response is relative to the others of its prompt."""
    if config.rollout.n_samples > 1:
        return None
    return (
        "rollout.n_samples: with 1 response to a prompt there is no group to compare it with (its standard deviation "
        "does not exist, its advantage would always be 0), so nothing would be learned; set it to 2 or more"
    )


@rule
def engines_fit_the_world(config: Config) -> str | None:
    """The number of devices is a multiple of the rollout engine's tensor parallel size."""
    size, world_size = config.rollout.tensor_parallel_size, config.cluster.world_size
    if world_size % size == 0:
        return None
    return f"rollout.tensor_parallel_size: {size} does not divide the {world_size} devices of the run"


@rule
def batch_divides_into_mini_batches(config: Config) -> str | None:
    """`trainer.global_batch_size` is a multiple of `actor.mini_batch_size`."""
    batch, mini_batch = config.trainer.global_batch_size, config.actor.mini_batch_size
    if batch % mini_batch == 0:
        return None
    return (
        f"actor.mini_batch_size: {mini_batch} prompts do not divide trainer.global_batch_size, {batch} prompts; "
        "both count prompts"
    )


@rule
def mini_batch_divides_into_micro_batches(config: Config) -> str | None:
    """The samples of a mini-batch are a multiple of data parallel size x `actor.micro_batch_size`."""
    if actor_layout_fits_the_world(config):
        return None
    actor, n_samples, replicas = config.actor, config.rollout.n_samples, config.data_parallel_size
    samples, chunk = actor.mini_batch_size * n_samples, replicas * actor.micro_batch_size
    if samples % chunk == 0:
        return None
    return (
        f"actor.micro_batch_size: the {samples} samples of a mini-batch ({actor.mini_batch_size} prompts x "
        f"{n_samples} samples) can't be divided into micro-batches of {actor.micro_batch_size} on each of {replicas} "
        f"copies of the actor; actor.mini_batch_size x rollout.n_samples must be a multiple of {chunk}"
    )


@rule
def reference_share_divides_into_micro_batches(config: Config) -> str | None:
    """With a reference policy, each copy's samples of a step are a multiple of `reference.micro_batch_size`."""
    size = config.reference.micro_batch_size if config.reference else None
    if size is None or not config.has_reference or actor_layout_fits_the_world(config):
        return None
    samples = config.trainer.global_batch_size * config.rollout.n_samples
    if samples % (config.data_parallel_size * size) == 0:
        return None
    return (
        f"reference.micro_batch_size: the {samples} samples of a step can't be divided into micro-batches of {size} "
        f"on each of {config.data_parallel_size} copies of the model; leave it out to use the actor's"
    )


@rule
def every_engine_gets_a_prompt(config: Config) -> str | None:
    """`trainer.global_batch_size` is at least the number of rollout engines."""
    if engines_fit_the_world(config) or config.trainer.global_batch_size >= config.num_engines:
        return None
    return (
        f"trainer.global_batch_size: {config.trainer.global_batch_size} prompts leave some of the "
        f"{config.num_engines} rollout engines without one; prompts are dealt out to the engines in turn"
    )


@rule
def sequence_parallel_needs_tensor_parallel(config: Config) -> str | None:
    """`actor.sequence_parallel` needs a tensor parallel size above 1."""
    if not config.actor.sequence_parallel or config.actor.tensor_model_parallel_size > 1:
        return None
    return (
        "actor.sequence_parallel: splits the sequence among tensor-parallel devices, and "
        "actor.tensor_model_parallel_size is 1; set it above 1, or sequence_parallel to false"
    )


@rule
def rollout_samples_from_the_whole_vocabulary(config: Config) -> str | None:
    """`rollout.top_p` is 1 and `rollout.top_k` is -1."""
    if config.rollout.top_p == 1.0 and config.rollout.top_k == -1:
        return None
    return (
        f"rollout.top_p, rollout.top_k: found {config.rollout.top_p:g} and {config.rollout.top_k}; cutting off "
        "candidates renormalises the distribution that responses are drawn from, so their log-probs are no longer "
        "the policy's and the probability ratio is wrong; train with 1 and -1"
    )


@rule
def hf_engine_uses_one_device(config: Config) -> str | None:
    """`rollout.engine: hf` has no tensor parallelism."""
    if config.rollout.engine != "hf" or config.rollout.tensor_parallel_size == 1:
        return None
    return (
        f"rollout.tensor_parallel_size: the hf engine holds a whole model on each device, found "
        f"{config.rollout.tensor_parallel_size}; set it to 1, or rollout.engine to vllm"
    )


@rule
def gap_warning_comes_before_the_stop(config: Config) -> str | None:
    """`rollout.logprob_gap_warn` is at most `rollout.logprob_gap_stop`."""
    warn, stop = config.rollout.logprob_gap_warn, config.rollout.logprob_gap_stop
    if warn <= stop:
        return None
    return (
        f"rollout.logprob_gap_warn: {warn:g} is above rollout.logprob_gap_stop, {stop:g}; it would never warn"
    )


@rule
def learning_rate_decays_downwards(config: Config) -> str | None:
    """`actor.lr_schedule.min_lr` is at most `actor.optimizer.lr`."""
    min_lr, lr = config.actor.lr_schedule.min_lr, config.actor.optimizer.lr
    if min_lr <= lr:
        return None
    return f"actor.lr_schedule.min_lr: {min_lr:g} is above the peak, actor.optimizer.lr {lr:g}"


@rule
def constant_learning_rate_has_no_minimum(config: Config) -> str | None:
    """`actor.lr_schedule.min_lr` belongs to a schedule that decays."""
    schedule = config.actor.lr_schedule
    if schedule.name != "constant" or schedule.min_lr == 0:
        return None
    return (
        f"actor.lr_schedule.min_lr: {schedule.min_lr:g} has no effect on the constant schedule; set "
        "actor.lr_schedule.name to linear or cosine, or leave it out"
    )


@rule
def warm_up_ends_within_the_run(config: Config) -> str | None:
    """`actor.lr_schedule.warmup_steps` is at most `trainer.total_steps`."""
    warmup, total = config.actor.lr_schedule.warmup_steps, config.trainer.total_steps
    if warmup <= total:
        return None
    return f"actor.lr_schedule.warmup_steps: {warmup} steps are more than trainer.total_steps, {total}"


@rule
def reward_functions_are_named_once(config: Config) -> str | None:
    """A reward function is listed once."""
    repeated = _repeated([function.name for function in config.reward.functions])
    if not repeated:
        return None
    return f"reward.functions: {', '.join(repeated)} listed more than once; give one entry the sum of the weights"


@rule
def some_reward_counts(config: Config) -> str | None:
    """A reward function has a weight other than 0 (one with 0 is only measured)."""
    functions = config.reward.functions
    if any(function.weight for function in functions):
        return None
    return (
        f"reward.functions: the weight of {', '.join(function.name for function in functions)} is 0, so every reward "
        "would be 0 and nothing learned; give one of them a weight"
    )


@rule
def evaluation_sets_can_be_told_apart(config: Config) -> str | None:
    """The files under `data.eval` have different names, because metrics are named after them."""
    repeated = _repeated([source.path.stem for source in config.data.eval])
    if not repeated:
        return None
    return f"data.eval: several files are named {', '.join(repeated)}, and metrics are named eval/<file name>/..."


@rule
def evaluation_has_prompts(config: Config) -> str | None:
    """`trainer.eval_interval` above 0 needs `data.eval`."""
    if config.trainer.eval_interval == 0 or config.data.eval:
        return None
    return (
        f"trainer.eval_interval: evaluation every {config.trainer.eval_interval} steps has no prompts; name sets "
        "under data.eval, or set it to 0"
    )


@rule
def greedy_evaluation_samples_once(config: Config) -> str | None:
    """`evaluation.n_samples` above 1 needs a temperature above 0."""
    if config.evaluation.temperature > 0 or config.evaluation.n_samples == 1:
        return None
    return (
        f"evaluation.n_samples: {config.evaluation.n_samples} greedy responses to a prompt are all the same; set "
        "evaluation.temperature above 0, or n_samples to 1"
    )


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
