"""What Megatron-core calls the model of a config.json, read off by hand: another reading than the project's."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.distributed import finalize_model_grads
from megatron.core.transformer import MLATransformerConfig, TransformerConfig


@dataclass(frozen=True)
class Layout:
    """How a model lies on the ranks there are; what is left of them is data parallel."""

    tensor: int = 1
    pipeline: int = 1
    virtual: int = 1
    """Chunks of layers on each pipeline stage (interleaved schedule)."""
    expert: int = 1
    expert_tensor: int = 1
    sequence: bool = False

    def __str__(self) -> str:
        sizes = {"TP": self.tensor, "PP": self.pipeline, "VPP": self.virtual, "EP": self.expert}
        named = [f"{name}{size}" for name, size in sizes.items() if size > 1]
        if self.expert_tensor != self.tensor and self.expert * self.expert_tensor > 1:
            named.append(f"ETP{self.expert_tensor}")
        return " x ".join(named + ["SP"] * self.sequence) or "no model parallelism"


def transformer_config(hf: dict[str, Any], layout: Layout) -> TransformerConfig:
    """What Megatron calls the model of a config.json."""
    common: dict[str, Any] = {
        "num_layers": hf["num_hidden_layers"],
        "hidden_size": hf["hidden_size"],
        "ffn_hidden_size": hf["intermediate_size"],
        "num_attention_heads": hf["num_attention_heads"],
        "layernorm_epsilon": hf["rms_norm_eps"],
        "normalization": "RMSNorm",
        "add_bias_linear": False,
        "gated_linear_unit": True,
        "activation_func": F.silu,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "bias_activation_fusion": False,
        "bias_dropout_fusion": False,
        "masked_softmax_fusion": False,
        "persist_layer_norm": False,
        "gradient_accumulation_fusion": False,
        "apply_rope_fusion": False,
        "use_cpu_initialization": True,
        "transformer_impl": "local",
        "calculate_per_token_loss": True,
        "finalize_model_grads_func": finalize_model_grads,
        "pipeline_dtype": torch.float32,
        "tensor_model_parallel_size": layout.tensor,
        "sequence_parallel": layout.sequence,
        "pipeline_model_parallel_size": layout.pipeline,
        "virtual_pipeline_model_parallel_size": layout.virtual if layout.virtual > 1 else None,
        "expert_model_parallel_size": layout.expert,
        "expert_tensor_parallel_size": layout.expert_tensor,
    }
    if hf["model_type"] == "deepseek_v3":
        return MLATransformerConfig(**common | _deepseek(hf))
    common |= {
        "num_query_groups": hf["num_key_value_heads"],
        "kv_channels": hf["head_dim"] if "head_dim" in hf else hf["hidden_size"] // hf["num_attention_heads"],
        "qk_layernorm": hf["model_type"].startswith("qwen3"),
        "add_qkv_bias": hf["model_type"] == "qwen2",
    }
    if hf["model_type"] == "qwen3_moe":
        common |= _experts(hf, hf["num_experts"] if "num_experts" in hf else hf["num_local_experts"])
        if hf["mlp_only_layers"]:
            common["moe_layer_freq"] = [
                int(layer not in hf["mlp_only_layers"]) for layer in range(hf["num_hidden_layers"])
            ]
    return TransformerConfig(**common)


def _experts(hf: dict[str, Any], num_experts: int) -> dict[str, Any]:
    return {
        "num_moe_experts": num_experts,
        "moe_ffn_hidden_size": hf["moe_intermediate_size"],
        "moe_router_topk": hf["num_experts_per_tok"],
        "moe_router_load_balancing_type": "none",
        "moe_router_dtype": "fp32",
        "moe_token_dispatcher_type": "allgather",  # the other one counts on one vendor's devices
        "moe_grouped_gemm": False,
        "moe_permute_fusion": False,
    }


def _deepseek(hf: dict[str, Any]) -> dict[str, Any]:
    rope = hf["rope_parameters"]
    layers, dense = hf["num_hidden_layers"], hf["first_k_dense_replace"]
    settings = _experts(hf, hf["n_routed_experts"]) | {
        "multi_latent_attention": True,
        "qk_layernorm": True,
        "q_lora_rank": hf["q_lora_rank"],
        "kv_lora_rank": hf["kv_lora_rank"],
        "qk_head_dim": hf["qk_nope_head_dim"],
        "qk_pos_emb_head_dim": hf["qk_rope_head_dim"],
        "v_head_dim": hf["v_head_dim"],
        "kv_channels": hf[
            "v_head_dim"
        ],  # what Megatron's attention without TransformerEngine cuts its output by
        "rope_type": "rope",
        "rotary_base": rope["rope_theta"],
        "moe_layer_freq": [int(layer >= dense) for layer in range(layers)],
        "moe_shared_expert_intermediate_size": hf["moe_intermediate_size"] * hf["n_shared_experts"],
        "moe_router_score_function": "sigmoid",
        "moe_router_enable_expert_bias": True,
        "moe_router_bias_update_rate": 0.0,
        "moe_router_topk_scaling_factor": hf["routed_scaling_factor"],
        "mtp_num_layers": hf["num_nextn_predict_layers"] or None,
    }
    if hf["n_group"] > 1:
        settings |= {"moe_router_num_groups": hf["n_group"], "moe_router_group_topk": hf["topk_group"]}
    if rope["rope_type"] == "yarn":
        settings |= {"rope_type": "yarn", "rotary_scaling_factor": rope["factor"]}
        settings |= {key: rope[key] for key in rope if key not in ("rope_type", "rope_theta", "factor")}
    return settings
