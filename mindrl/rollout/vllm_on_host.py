"""What vLLM needs where the device is the host itself. Other builds of vLLM need none of it, and may not even have it."""

from typing import Any

import torch
from vllm.config import SchedulerConfig, VllmConfig
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

from mindrl.errors import RequestError
from mindrl.rollout.choose import LATENT_ATTENTION_ON_HOST


def host_arguments(max_model_length: int) -> dict[str, Any]:
    """Engine arguments: nothing is compiled, nothing sleeps, and prompts stay in one piece.

    vLLM turns a request's generator back after each piece but the last, which generators on CPU do not support: it
    dies as soon as the prompts of a step are more tokens than it computes at once."""
    budget = max(max_model_length, SchedulerConfig.DEFAULT_MAX_NUM_BATCHED_TOKENS)
    return {
        "enforce_eager": True,
        "enable_sleep_mode": False,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": budget,
    }


def fit_to_host(config: VllmConfig) -> None:
    """Size the key-value cache; `RequestError` for a model that vLLM can't compute here."""
    _check_attention(config)
    if config.cache_config.kv_cache_memory_bytes is None:
        config.cache_config.kv_cache_memory_bytes = _kv_cache_bytes(config)


def repack_output_layer(model: torch.nn.Module) -> None:
    """Have a tied output layer multiply by the new embedding, not by the packed copy of the old one."""
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)


def forget_packed_experts(model: torch.nn.Module) -> None:
    """Have experts' weights packed again by the update that follows.

    vLLM packs them when it makes their kernel, and takes a kernel that is there for packed weights: the new ones would
    stay as they came, and what is sampled is nonsense (log-probs off by 9 and more, without an error)."""
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if isinstance(method, UnquantizedFusedMoEMethod):
            method.moe_kernel = None


def _check_attention(config: VllmConfig) -> None:
    """vLLM finds out in the middle of the first forward pass, or not at all."""
    if config.model_config.use_mla:
        raise RequestError(f"{LATENT_ATTENTION_ON_HOST}; use rollout.engine=hf")
    head_size, supported = config.model_config.get_head_size(), CPUAttentionBackend.get_supported_head_sizes()
    if head_size not in supported:
        raise RequestError(
            f"the model's attention heads have size {head_size}, and vLLM on CPU computes sizes {supported}; "
            "use rollout.engine=hf"
        )


def _kv_cache_bytes(config: VllmConfig) -> int:
    """Bytes a rank needs so that every sequence can reach its full length, with one block each to spare."""
    model, parallel = config.model_config, config.parallel_config
    block = config.cache_config.block_size
    blocks = config.scheduler_config.max_num_seqs * (-(-model.max_model_len // block) + 1)
    per_token = 2 * model.get_num_kv_heads(parallel) * model.get_head_size() * model.dtype.itemsize
    return (blocks + 1) * block * per_token * model.get_num_layers(parallel)
