"""Tiny random models of every family, samples and configurations, shared by the tests of this room."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from mindrl.config.schema import Config
from mindrl.data.records import Sample
from mindrl.models.backend import MiniBatch

VOCAB_SIZE = 83  # odd: two tensor-parallel ranks need padding
FAMILIES = ("qwen2-tied", "qwen3-untied", "llama-untied")
EXPERT_FAMILIES = ("qwen3_moe-tied", "deepseek_v3-untied", "moonlight-untied")
"""With experts; the last two with latent attention."""
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "routed_scaling_factor": 2.5,
}
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}


def save_tiny_model(directory: Path, family: str, **settings: Any) -> Path:
    """A random model with norms and biases away from their initial values; `settings` go to its config."""
    name, tied = family.rsplit("-", 1)
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": tied == "tied",
        "rms_norm_eps": 1e-6,
        **settings,
    }
    config = {
        "qwen2": lambda: transformers.Qwen2Config(**sizes),
        "qwen3": lambda: transformers.Qwen3Config(**sizes, head_dim=16),
        "llama": lambda: transformers.LlamaConfig(**sizes),
        "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
            **{
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 24,
                "norm_topk_prob": True,
            }
            | sizes,
            head_dim=16,
        ),
        "deepseek_v3": lambda: transformers.DeepseekV3Config(
            **sizes | LATENT | {"q_lora_rank": 24, "n_group": 4, "topk_group": 2} | settings
        ),
        "moonlight": lambda: transformers.DeepseekV3Config(
            **sizes
            | LATENT
            | {
                "q_lora_rank": None,
                "n_group": 1,
                "topk_group": 1,
                "n_shared_experts": 2,
                "rms_norm_eps": 1e-5,
            }
            | settings
        ),
    }[name]()
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "embed" in parameter_name or "lm_head" in parameter_name:
                parameter.normal_(0, 0.25)
            else:
                parameter.normal_(0, 0.15)
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("e_score_correction_bias"):
                buffer.normal_(0, 0.3)
    model.save_pretrained(directory)
    return directory


def make_samples(num_samples: int, seed: int = 0) -> list[Sample]:
    """Prompts and responses of different lengths; a few response tokens are masked out."""
    rng = np.random.default_rng(seed)
    samples: list[Sample] = []
    for index in range(num_samples):
        num_prompt, num_response = int(rng.integers(1, 9)), int(rng.integers(1, 12))
        mask = np.ones(num_response, dtype=np.bool_)
        mask[rng.integers(0, num_response)] = index % 3 != 0
        samples.append(
            Sample(
                sample_id=index,
                group_id=index // 2,
                prompt_ids=rng.integers(0, VOCAB_SIZE, num_prompt).astype(np.int32),
                response_ids=rng.integers(0, VOCAB_SIZE, num_response).astype(np.int32),
                response_mask=mask,
                rollout_log_probs=rng.normal(-4, 1, num_response).astype(np.float32),
                finish_reason="stop",
                weight_version=np.zeros(num_response, dtype=np.int32),
            )
        )
    return samples


def make_mini_batch(samples: list[Sample], share: slice = slice(None), seed: int = 1) -> MiniBatch:
    """The given share of a mini-batch of all samples, with old and reference log-probs near the rollout's."""
    rng = np.random.default_rng(seed)
    num_tokens = sum(int(sample.response_mask.sum()) for sample in samples)
    advantages = rng.normal(0, 1, len(samples)).astype(np.float32)
    old = [sample.rollout_log_probs for sample in samples]
    ref = [values + rng.normal(0, 0.3, len(values)).astype(np.float32) for values in old]
    return MiniBatch(
        samples=samples[share],
        advantages=advantages[share],
        token_weights=np.full(len(samples), 1 / num_tokens, dtype=np.float32)[share],
        old_log_probs=old[share],
        ref_log_probs=ref[share],
    )


def make_config(
    model: Path,
    world_size: int,
    *,
    tensor: int = 1,
    pipeline: int = 1,
    expert: int = 1,
    sequence_parallel: bool | None = None,
    micro_batch_size: int = 2,
    temperature: float = 0.8,
    transformer_config: dict[str, Any] | None = None,
    **optimizer: Any,
) -> Config:
    """A whole configuration around one layout of the actor; sequence parallel by default where it can be."""
    return Config.model_validate(
        {
            "cluster": {"devices_per_node": world_size},
            "model": {"path": str(model)},
            "data": {
                "train": [{"path": "unused.parquet"}],
                "max_prompt_length": 8,
                "max_response_length": 12,
            },
            "actor": {
                "tensor_model_parallel_size": tensor,
                "pipeline_model_parallel_size": pipeline,
                "expert_model_parallel_size": expert,
                "sequence_parallel": tensor > 1 if sequence_parallel is None else sequence_parallel,
                "micro_batch_size": micro_batch_size,
                "mini_batch_size": 24 * world_size,
                "optimizer": {"lr": 0.002, "weight_decay": 0.1, "clip_grad": 0.5, **optimizer},
                "transformer_config": transformer_config or {},
            },
            "rollout": {"n_samples": 2, "temperature": temperature},
            "reward": {"functions": [{"name": "unused"}]},
            "algorithm": {"kl": {"coef": 0.05}, "entropy_coef": 0.02},
            "trainer": {
                "global_batch_size": 24 * world_size,
                "total_steps": 1,
                "output_dir": "unused",
                "seed": 3,
            },
        }
    )
