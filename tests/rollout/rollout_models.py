"""Tiny random models as Hugging Face directories, and what tests of engines compare with."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from mindrl.data.records import Request, Sample, Sampling
from mindrl.rollout.hf_names import file_tensors

VOCAB_SIZE = 96
STOP = 1
OWN_SIZES: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 32},
    "qwen3_moe": {
        "head_dim": 32,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,  # vLLM's kernels on CPU take it as it is, and pad half of it
        "norm_topk_prob": True,
    },
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "moe_intermediate_size": 24,
        "n_routed_experts": 8,
        "num_experts_per_tok": 4,
        "n_group": 4,
        "topk_group": 2,
        "first_k_dense_replace": 1,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
    },
}
"""What families have beyond, or instead of, the common sizes."""


def make_model(directory: Path, family: str, *, tied: bool) -> PreTrainedModel:
    """Write config.json (no weights, no tokenizer) and return a model of it."""
    sizes = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 128,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tied,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": 2,
    }
    configs: dict[str, type[PreTrainedConfig]] = {
        "llama": LlamaConfig,
        "qwen2": Qwen2Config,
        "qwen3": Qwen3Config,
        "qwen3_moe": Qwen3MoeConfig,
        "deepseek_v3": DeepseekV3Config,
    }
    config = configs[family](**sizes | OWN_SIZES.get(family, {}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(0, 0.3)
    config.architectures = [type(model).__name__]
    config.save_pretrained(directory)
    return model.eval().requires_grad_(False)


def named_tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """As a training backend yields them: tied ones once, experts one by one, each valid only until the next is asked
    for."""
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set[str]()
    for name, tensor in file_tensors(model).items():
        if name in tied:
            continue
        lent = tensor.clone()
        yield name, lent
        lent.fill_(torch.nan)


def perturb(model: PreTrainedModel, seed: int) -> None:
    """Take a step, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


def requests(
    count: int,
    *,
    temperature: float = 1.0,
    max_tokens: int = 8,
    first_id: int = 0,
    samples_per_prompt: int = 2,
    seed: int = 0,
    stop: Sequence[int] = (STOP,),
) -> list[Request]:
    """The same prompts (of 3 to 40 tokens) for the same arguments."""
    generator = np.random.default_rng(7)
    num_prompts = -(-count // samples_per_prompt)
    prompts = [
        generator.integers(3, VOCAB_SIZE, size=generator.integers(3, 41), dtype=np.int32)
        for _ in range(num_prompts)
    ]
    return [
        Request(
            sample_id=first_id + index,
            group_id=index // samples_per_prompt,
            prompt_ids=prompts[index // samples_per_prompt],
            sampling=Sampling(temperature=temperature, max_tokens=max_tokens, stop_token_ids=tuple(stop)),
            seed=seed * 1000 + index,
        )
        for index in range(count)
    ]


@torch.no_grad()
def largest_gap(model: PreTrainedModel, samples: Sequence[Sample], temperature: float) -> float:
    """Largest |log p_transformers - log p_rollout| of any sampled token, one sequence at a time."""
    gaps = [0.0]
    for sample in samples:
        start = len(sample.prompt_ids)
        ids = torch.from_numpy(np.concatenate([sample.prompt_ids, sample.response_ids])).long()
        log_probs = (model(ids[None]).logits[0, start - 1 : -1].float() / temperature).log_softmax(-1)
        expected = log_probs.gather(1, ids[start:, None])[:, 0].numpy()
        gaps.append(float(np.abs(expected - sample.rollout_log_probs).max()))
    return max(gaps)


@torch.no_grad()
def greedy(model: PreTrainedModel, request: Request) -> list[int]:
    """What transformers decodes greedily, without a cache."""
    ids = torch.from_numpy(request.prompt_ids).long()[None]
    response: list[int] = []
    while len(response) < request.sampling.max_tokens:
        response.append(int(model(ids).logits[0, -1].argmax()))
        if response[-1] in request.sampling.stop_token_ids:
            break
        ids = torch.cat([ids, torch.tensor([[response[-1]]])], dim=1)
    return response
