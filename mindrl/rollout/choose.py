"""Which rollout engine a run gets, and why not another one."""

import ctypes
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from hal.accelerator import Accelerator
from mindrl.config.rollout import RolloutConfig
from mindrl.errors import RequestError
from mindrl.rollout.engine import RolloutEngine
from mindrl.rollout.requests import Limits
from mindrl.weight_maps import Architecture, read_architecture

LATENT_ATTENTION_ON_HOST = (
    "vLLM on CPU computes multi-head latent attention wrongly: it turns heads of a query by other tokens' positions, and "
    "log-probs are off by 6 and more"
)


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine that `rollout.engine` comes to on this machine."""

    name: Literal["vllm", "hf", "replay"]
    notice: str | None
    """One line for the user where `auto` could not take the first choice."""


def engine_environment(accelerator: Accelerator) -> Mapping[str, str]:
    """Environment of a process that will hold an engine, to be set before it starts."""
    return {
        **accelerator.rollout_environment(),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }


def choose_engine(
    config: RolloutConfig, accelerator: Accelerator, architecture: Architecture
) -> EngineChoice:
    """Resolve `auto`; `RequestError` if what was asked for can't run here, or can't run this model."""
    if config.engine == "replay":
        _refuse_engine_args(config, "replay")
        return EngineChoice("replay", None)
    reason = None
    if config.engine != "hf":
        reason = vllm_unavailable_reason(accelerator) or _wrong_in_vllm(accelerator, architecture)
    if config.engine == "vllm" and reason is not None:
        raise RequestError(f"rollout.engine=vllm was asked for, but {reason}; or use rollout.engine=hf")
    if config.engine != "hf" and reason is None:
        return EngineChoice("vllm", None)
    if config.tensor_parallel_size > 1:
        raise RequestError(
            f"rollout.tensor_parallel_size={config.tensor_parallel_size} was asked for, but the hf engine runs on one "
            f"device each{f' and vLLM is out: {reason}' if reason else ''}; use rollout.tensor_parallel_size=1"
        )
    _refuse_engine_args(config, f"hf ({reason})" if reason else "hf")
    notice = f"rollout: transformers instead of vLLM, because {reason}" if reason else None
    return EngineChoice("hf", notice)


def check_engine_args(config: RolloutConfig, accelerator: Accelerator, architecture: Architecture) -> None:
    """`RequestError` for what vLLM's EngineArgs does not know or the engine sets itself. Imports vLLM if needed."""
    if config.engine_args and choose_engine(config, accelerator, architecture).name == "vllm":
        from mindrl.rollout.vllm_arguments import check_engine_args

        check_engine_args(config.engine_args)


def make_engine(
    config: RolloutConfig,
    hf_dir: Path,
    *,
    dtype: torch.dtype,
    max_model_length: int,
    max_sequences: int,
    seed: int,
    job_id: str,
    accelerator: Accelerator,
) -> RolloutEngine:
    """This rank's engine; collective over the default process group. See the engines for the arguments."""
    architecture = read_architecture(hf_dir)
    choice = choose_engine(config, accelerator, architecture).name
    if choice == "replay":
        from mindrl.rollout.replay_engine import ReplayEngine

        assert config.replay_from is not None  # a rule of the configuration
        return ReplayEngine(config.replay_from, Limits(max_model_length, architecture.vocab_size))
    if choice == "hf":
        from mindrl.rollout.hf_engine import HfEngine

        return HfEngine(
            hf_dir,
            dtype=dtype,
            max_model_length=max_model_length,
            max_sequences=max_sequences,
            accelerator=accelerator,
        )
    from mindrl.rollout.vllm_engine import VllmEngine

    return VllmEngine(
        hf_dir,
        dtype=dtype,
        tensor_parallel_size=config.tensor_parallel_size,
        max_model_length=max_model_length,
        max_sequences=max_sequences,
        seed=seed,
        gpu_memory_utilization=config.gpu_memory_utilization,
        job_id=job_id,
        engine_args=config.engine_args,
        accelerator=accelerator,
    )


def _refuse_engine_args(config: RolloutConfig, engine: str) -> None:
    if config.engine_args:
        raise RequestError(
            f"rollout.engine_args={config.engine_args} were given, but they are vLLM's and the rollout engine is {engine}; "
            "remove them"
        )


def vllm_unavailable_reason(accelerator: Accelerator) -> str | None:
    """None if vLLM can run on this machine, else why not and what to do. Does not import it."""
    if find_spec("vllm") is None:
        return "the package vllm is not installed; install one of the sets in requirements/"
    if accelerator.device_type != "cpu":
        return None
    if platform.machine() == "x86_64" and torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return (
            f"vLLM needs a processor with AVX2 or AVX512, and this one has "
            f"{torch.backends.cpu.get_cpu_capability()}"
        )
    if not _loads("libnuma.so.1"):
        return "vLLM needs the library libnuma.so.1, which is not here; install the system package libnuma1"
    return None


def _wrong_in_vllm(accelerator: Accelerator, architecture: Architecture) -> str | None:
    """Why this model's samples would not be its own, where vLLM itself does not notice."""
    if accelerator.device_type == "cpu" and architecture.latent_attention is not None:
        return LATENT_ATTENTION_ON_HOST
    return None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
