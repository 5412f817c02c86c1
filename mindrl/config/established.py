"""Names that users bring from other systems' configurations, and the keys that mean the same here.

The systems: MindSpeed-RL (its yaml has sections such as `rl_config`), verl (`actor_rollout_ref.rollout.n`), ChatLearn
(`models.policy.num_inference_per_prompt`), slime (flags). docs/migration.md shows the table to people, and a test
compares the two.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import cast

OURS = {
    "trainer.global_batch_size": (
        "train_batch_size",
        "train_global_batch_size",
        "rollout_batch_size",
        "gen_batch_size",
        "megatron_training.global_batch_size",
    ),
    "actor.mini_batch_size": ("rl_config.mini_batch_size", "ppo_mini_batch_size"),
    "actor.micro_batch_size": (
        "actor_config.micro_batch_size",
        "ppo_micro_batch_size_per_gpu",
        "train_micro_batch_size",
        "actor_forward_micro_batch_size",
    ),
    "reference.micro_batch_size": ("ref_forward_micro_batch_size", "ref.log_prob_micro_batch_size_per_gpu"),
    "rollout.n_samples": (
        "rollout.n",
        "n_samples_per_prompt",
        "num_inference_per_prompt",
        "n_resp_per_prompt",
    ),
    "rollout.temperature": ("sampling_config.temperature", "rollout_temperature", "policy.temperature"),
    "rollout.top_p": ("sampling_config.top_p",),
    "rollout.top_k": ("sampling_config.top_k",),
    "rollout.tensor_parallel_size": (
        "infer_tensor_parallel_size",
        "rollout.tensor_model_parallel_size",
        "policy.tensor_model_parallel_size",
        "rollout_num_gpus_per_engine",
    ),
    "rollout.gpu_memory_utilization": (
        "generate_config.gpu_memory_utilization",
        "policy.gpu_memory_utilization",
        "sglang_mem_fraction_static",
    ),
    "rollout.engine_args": ("max_num_batched_tokens", "enforce_eager"),
    "data.max_prompt_length": (
        "rl_config.max_prompt_length",
        "max_prompt_tokens_length",
        "rollout_max_prompt_len",
    ),
    "data.max_response_length": ("max_tokens", "max_response_tokens_length", "rollout_max_response_len"),
    "data.train": ("train_files", "data_path", "prompt_data"),
    "data.eval": ("val_files", "eval_data_path", "eval_prompt_data"),
    "model.path": ("tokenizer_name_or_path", "hf_checkpoint", "policy.load"),
    "model.checkpoint": ("actor_config.load", "dist_checkpointing_path", "policy_trainer.load", "ref_load"),
    "algorithm.kl.coef": ("init_kl_coef", "kl_coef", "kl_loss_coef"),
    "algorithm.kl.estimator": ("kl_penalty", "kl_loss_type"),
    "algorithm.kl.placement": ("use_kl_in_reward", "use_kl_loss"),
    "algorithm.advantage.name": ("adv_estimator", "advantage_estimator"),
    "algorithm.advantage.normalize_std": ("norm_adv_by_std_in_grpo",),
    "algorithm.policy_loss.clip_ratio_low": ("clip_ratio_low", "neg_clip_ratio", "eps_clip"),
    "algorithm.policy_loss.clip_ratio_high": ("clip_ratio_high", "pos_clip_ratio", "eps_clip_high"),
    "algorithm.policy_loss": ("clip_ratio",),
    "algorithm.entropy_coef": ("entropy_coeff", "entropy_coef"),
    "algorithm.reduction": ("loss_agg_mode", "token_level_loss"),
    "actor.optimizer.lr": ("optim.lr", "actor_config.lr", "policy_trainer.optimizer.lr"),
    "actor.optimizer.weight_decay": ("actor_config.weight_decay", "optim.weight_decay"),
    "actor.optimizer.clip_grad": ("actor_config.clip_grad", "grad_clip"),
    "actor.optimizer.betas": ("adam_beta1", "adam_beta2"),
    "actor.lr_schedule.name": ("lr_decay_style", "lr_scheduler_type"),
    "actor.lr_schedule.warmup_steps": ("lr_warmup_steps", "lr_warmup_fraction"),
    "actor.lr_schedule.min_lr": ("actor_config.min_lr", "optim.min_lr", "policy_trainer.optimizer.min_lr"),
    "actor.tensor_model_parallel_size": (
        "actor_config.tensor_model_parallel_size",
        "megatron.tensor_model_parallel_size",
        "policy_trainer.tensor_model_parallel_size",
    ),
    "actor.pipeline_model_parallel_size": (
        "actor_config.pipeline_model_parallel_size",
        "megatron.pipeline_model_parallel_size",
        "policy_trainer.pipeline_model_parallel_size",
    ),
    "actor.expert_model_parallel_size": (
        "actor_config.expert_model_parallel_size",
        "megatron.expert_model_parallel_size",
        "policy_trainer.expert_model_parallel_size",
    ),
    "actor.sequence_parallel": ("megatron_training.sequence_parallel", "policy_trainer.sequence_parallel"),
    "actor.dtype": ("bf16", "policy_trainer.bf16"),
    "actor.transformer_config": ("recompute_granularity", "recompute_method", "recompute_num_layers"),
    "reward.functions": ("verifier_function", "verifier_weight", "rm_type"),
    "reward.timeout_seconds": ("verifier_timeout",),
    "reward.workers": ("verifier_parallel",),
    "trainer.total_steps": ("train_iters", "total_training_steps", "num_rollout", "num_episode"),
    "trainer.save_interval": ("save_freq", "save_interval", "save_episode_interval"),
    "trainer.keep_last": ("max_actor_ckpt_to_keep",),
    "trainer.eval_interval": ("test_freq", "eval_interval", "eval_episode_interval"),
    "trainer.output_dir": ("default_local_dir", "actor_config.save", "runtime_args.output_dir"),
    "trainer.seed": ("megatron_training.seed",),
    "logging.tensorboard": ("use_tensorboard", "enable_tensorboard"),
    "logging.enable_wandb": ("use_wandb", "enable_wandb"),
    "logging.wandb_project": ("project_name", "wandb_project"),
    "cluster.num_nodes": ("nnodes", "actor_num_nodes"),
    "cluster.devices_per_node": ("n_gpus_per_node", "actor_num_gpus_per_node", "num_npus"),
}
"""Our key -> names elsewhere: the last part, or the last parts, of their dotted keys."""

SECTIONS = frozenset(
    {"megatron_training", "actor_config", "ref_config", "rl_config", "generate_config"}
    | {"actor_rollout_ref", "critic", "reward_model", "runtime_args", "models"}
)
"""Sections of the others' yaml files."""

_OURS_BY_NAME = {other: ours for ours, others in OURS.items() for other in others}


def our_key(key: str) -> str | None:
    """Our key for another system's dotted one; of several that fit, the one named at greater length."""
    parts = key.split(".")
    tails = (".".join(parts[start:]) for start in range(len(parts)))
    return next((_OURS_BY_NAME[tail] for tail in tails if tail in _OURS_BY_NAME), None)


def answers(key: str, value: object, known: Collection[str]) -> list[str]:
    """What to say of another system's key, or of its whole section; empty for what belongs to none.

    `known` are the keys of the file that is read: a name without a counterpart among them is not answered."""
    if key.partition(".")[0] not in SECTIONS:
        ours = our_key(key)
        return [f"{key}: unknown key; here it is {ours} (docs/migration.md)"] if ours in known else []
    found = {leaf: our_key(leaf) for leaf in _leaves(key, value)}
    sentences = [f"{leaf}: unknown key; here it is {ours}" for leaf, ours in found.items() if ours in known]
    others = [leaf.removeprefix(f"{key}.") for leaf, ours in found.items() if ours not in known]
    if others:
        sentences.append(f"{key}: nothing here is called {', '.join(others)} (docs/migration.md)")
    return sentences


def _leaves(key: str, value: object) -> Iterator[str]:
    if not isinstance(value, Mapping) or not value:
        yield key
        return
    for name, below in cast(Mapping[object, object], value).items():
        yield from _leaves(f"{key}.{name}", below)
