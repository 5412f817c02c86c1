"""What vLLM is started with: what the engine depends on, what fits the device, and what the user passes through."""

import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from vllm import EngineArgs
from vllm.config import SchedulerConfig, VllmConfig
from vllm.platforms import current_platform
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

from mindrl.config.names import check_pass_through
from mindrl.errors import RequestError

FIXED_ARGS = {
    "model": "it is model.path",
    "skip_tokenizer_init": "rollout is token-in, token-out",
    "load_format": "weights come from the trainer",
    "dtype": "it is actor.dtype",
    "seed": "it is trainer.seed",
    "max_model_len": "it is data.max_prompt_length + data.max_response_length",
    "tensor_parallel_size": "it is rollout.tensor_parallel_size",
    "pipeline_parallel_size": "an engine spans rollout.tensor_parallel_size ranks",
    "data_parallel_size": "there are as many engines as fit the world",
    "distributed_executor_backend": "the engine lives in the trainer's processes",
    "logprobs_mode": "the trainer compares processed log-probs",
    "generation_config": "sampling is what the configuration says",
    "disable_log_stats": "nothing reads them",
    "max_num_seqs": "it follows from the batch",
    "gpu_memory_utilization": "it is rollout.gpu_memory_utilization",
}
"""What the engine depends on, or what has its own key in the configuration: no one else may set it."""


def check_engine_args(engine_args: Mapping[str, Any]) -> None:
    """`RequestError` for a name that vLLM does not know or that the engine sets itself, and for a wrong type."""
    names = vars(sys.modules[EngineArgs.__module__])
    known = {field.name: _type_of(field.type, names) for field in fields(EngineArgs)}
    check_pass_through("rollout.engine_args", engine_args, known, FIXED_ARGS, "vLLM's EngineArgs")


def _type_of(annotation: Any, names: Mapping[str, Any]) -> Any:
    """An annotation that may be text; `Any` where it uses names that vLLM imports for type checkers only."""
    try:
        return eval(annotation, dict(names)) if isinstance(annotation, str) else annotation
    except NameError:
        return Any


def engine_config(
    hf_dir: Path,
    *,
    dtype: torch.dtype,
    seed: int,
    max_model_length: int,
    max_sequences: int,
    tensor_parallel_size: int,
    gpu_memory_utilization: float,
    kv_cache_bytes: int | None,
    engine_args: Mapping[str, Any],
) -> VllmConfig:
    """vLLM's configuration; see `VllmEngine` for the arguments, of which `engine_args` are vLLM's own.

    `RequestError` for what `check_engine_args` refuses, and for a model that vLLM on CPU can't compute."""
    check_engine_args(engine_args)
    arguments: dict[str, Any] = {
        "model": str(hf_dir),
        "skip_tokenizer_init": True,
        "load_format": "dummy",
        "dtype": dtype,
        "seed": seed,
        "max_model_len": max_model_length,
        "max_num_seqs": max_sequences,
        "tensor_parallel_size": tensor_parallel_size,
        "distributed_executor_backend": "external_launcher",
        "gpu_memory_utilization": gpu_memory_utilization,
        "kv_cache_memory_bytes": kv_cache_bytes,
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",
        "disable_log_stats": True,
        "enforce_eager": current_platform.is_cpu(),
        **_whole_prompts(max_model_length),
        "enable_sleep_mode": not current_platform.is_cpu(),
    }
    config = EngineArgs(**(arguments | dict(engine_args))).create_engine_config()
    if current_platform.is_cpu():
        _check_head_size(config)
        if config.cache_config.kv_cache_memory_bytes is None:
            config.cache_config.kv_cache_memory_bytes = _kv_cache_bytes(config)
    return config


def _check_head_size(config: VllmConfig) -> None:
    """vLLM finds out in the middle of the first forward pass."""
    head_size, supported = config.model_config.get_head_size(), CPUAttentionBackend.get_supported_head_sizes()
    if not config.model_config.use_mla and head_size not in supported:
        raise RequestError(
            f"the model's attention heads have size {head_size}, and vLLM on CPU computes sizes {supported}; "
            "use rollout.engine=hf"
        )


def _whole_prompts(max_model_length: int) -> dict[str, Any]:
    """Engine arguments that keep prompts in one piece on CPU.

    vLLM turns a request's generator back after each piece but the last, which generators on CPU do not support: it
    dies as soon as the prompts of a step are more tokens than it computes at once."""
    if not current_platform.is_cpu():
        return {}
    budget = max(max_model_length, SchedulerConfig.DEFAULT_MAX_NUM_BATCHED_TOKENS)
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": budget}


def _kv_cache_bytes(config: VllmConfig) -> int:
    """Bytes a rank needs so that every sequence can reach its full length, with one block each to spare."""
    model, parallel = config.model_config, config.parallel_config
    block = config.cache_config.block_size
    blocks = config.scheduler_config.max_num_seqs * (-(-model.max_model_len // block) + 1)
    per_token = 2 * model.get_num_kv_heads(parallel) * model.get_head_size() * model.dtype.itemsize
    return (blocks + 1) * block * per_token * model.get_num_layers(parallel)
