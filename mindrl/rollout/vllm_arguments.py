"""What vLLM is started with: what the engine depends on, what fits the device, and what the user passes through."""

import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from vllm import EngineArgs
from vllm.config import VllmConfig
from vllm.platforms import current_platform

from mindrl.config.names import check_pass_through

if current_platform.is_cpu():
    from mindrl.rollout.vllm_on_host import fit_to_host, host_arguments

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
    device_args: Mapping[str, Any],
    engine_args: Mapping[str, Any],
) -> VllmConfig:
    """vLLM's configuration; see `VllmEngine` for the arguments.

    `device_args` are what the accelerator asks for, `engine_args` what the user does, who has the last word.
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
        "enable_sleep_mode": True,
    }
    if current_platform.is_cpu():
        arguments |= host_arguments(max_model_length)
    config = EngineArgs(**_merged(arguments, device_args, engine_args)).create_engine_config()
    if current_platform.is_cpu():
        fit_to_host(config)
    return config


def _merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later layers win; mappings, such as `additional_config`, key by key."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            known = merged.get(name)
            merged[name] = (
                {**known, **value} if isinstance(known, dict) and isinstance(value, Mapping) else value
            )
    return merged
