"""GRPO on models with experts, end to end: trainer, weight sync, engines."""

from pathlib import Path
from typing import Any

import pytest
import torch
from real_runs import Files, Train
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DeepseekV3Config, Qwen3MoeConfig

GAP = 1e-4
"""What the quick start stops at."""
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True}


def save_model(files: Files, directory: Path, kind: str) -> Path:
    """A random model beside the quick start's tokenizer."""
    plain = AutoConfig.from_pretrained(files.tied)
    names = "vocab_size hidden_size intermediate_size num_attention_heads max_position_embeddings eos_token_id pad_token_id"
    sizes = {name: getattr(plain, name) for name in names.split()} | EXPERTS
    sizes |= {"num_hidden_layers": 2, "tie_word_embeddings": False, "bos_token_id": None}
    if kind == "qwen3_moe":
        config = Qwen3MoeConfig(**sizes, num_key_value_heads=2, head_dim=32, num_experts=4)
    else:
        config = DeepseekV3Config(
            **sizes,
            num_key_value_heads=4,
            n_routed_experts=4,
            n_shared_experts=2,
            n_group=1,
            topk_group=1,
            first_k_dense_replace=1,
            q_lora_rank=None,
            kv_lora_rank=32,
            qk_nope_head_dim=32,
            qk_rope_head_dim=16,
            v_head_dim=24,
            routed_scaling_factor=2.446,
            rms_norm_eps=1e-5,
        )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.normal_(0, 0.1)
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(files.tied).save_pretrained(directory)
    return directory


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        pytest.param("qwen3_moe", ["actor.expert_model_parallel_size=2"], id="Qwen3-MoE, EP2 into vLLM"),
        pytest.param(
            "moonlight",
            ["actor.tensor_model_parallel_size=2", "actor.sequence_parallel=true", "rollout.engine=hf"],
            id="Moonlight, TP2+SP into transformers",
        ),
    ],
)
def test_weights_reach_the_engines_and_move(
    train: Train, files: Files, tmp_path: Path, kind: str, overrides: list[str]
) -> None:
    rows = train(*overrides, model=save_model(files, tmp_path / "model", kind))
    assert [row["weight_version"] for row in rows] == [0, 1, 2]
    assert all(row["grad_norm"] > 1e-3 for row in rows)
    assert rows[-1]["kl/reference"] > 1e-7
    assert max(row["logprob_gap/max"] for row in rows) < GAP


@pytest.mark.slow
def test_the_reward_rises_on_experts_that_two_workers_share(
    train: Train, files: Files, tmp_path: Path
) -> None:
    rows = train(
        "actor.expert_model_parallel_size=2",
        "actor.optimizer.lr=2e-3",
        "trainer.total_steps=30",
        model=save_model(files, tmp_path / "model", "qwen3_moe"),
    )
    rewards = [row["reward/mean"] for row in rows]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2
    assert max(row["logprob_gap/max"] for row in rows) < GAP
