"""What a Megatron-core checkpoint of a model holds, put together in memory from Hugging Face tensors by the published
definition of each layer. A second account beside the project's weight maps, of which it uses nothing."""

from typing import Any

import torch

Tensors = dict[str, torch.Tensor]


def megatron_tensors(hf: Tensors, config: dict[str, Any]) -> Tensors:
    """Every tensor of the checkpoint under its key, without padding of the vocabulary."""
    layers = [
        layer_tensors(Part(hf, f"model.layers.{i}."), config, i) for i in range(config["num_hidden_layers"])
    ]
    experts = [has_experts(config, i) for i in range(config["num_hidden_layers"])]
    found = {
        "embedding.word_embeddings.weight": hf["model.embed_tokens.weight"],
        "decoder.final_layernorm.weight": hf["model.norm.weight"],
    }
    if not config["tie_word_embeddings"]:
        found["output_layer.weight"] = hf["lm_head.weight"]
    if all(experts) or config["model_type"] in ("llama", "qwen2", "qwen3"):
        return found | {f"decoder.layers.{key}": torch.stack([of[key] for of in layers]) for key in layers[0]}
    return found | {
        f"decoder.layers.{index}.{key}": tensor
        for index, of in enumerate(layers)
        for key, tensor in of.items()
    }


def has_experts(config: dict[str, Any], layer: int) -> bool:
    """Qwen3-MoE lists layers without experts, DeepSeek-V3 begins with some."""
    if config["model_type"] == "qwen3_moe":
        return layer not in config["mlp_only_layers"]
    return config["model_type"] == "deepseek_v3" and layer >= config["first_k_dense_replace"]


class Part:
    """The tensors under a prefix."""

    def __init__(self, hf: Tensors, prefix: str) -> None:
        self._hf, self._prefix = hf, prefix

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._hf[self._prefix + name]

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._hf

    def under(self, prefix: str) -> "Part":
        return Part(self._hf, self._prefix + prefix)


def layer_tensors(layer: Part, config: dict[str, Any], index: int) -> Tensors:
    """Of one layer. Norms have two keys where a layer with TransformerEngine, which fuses them with the projection that
    follows, asks for another than a layer without."""
    norm = layer["post_attention_layernorm.weight"]
    attention = latent_attention if config["model_type"] == "deepseek_v3" else grouped_query_attention
    found = attention(layer, config)
    if config["model_type"] != "deepseek_v3":
        found["mlp.linear_fc1.layer_norm_weight"] = norm
    if has_experts(config, index):
        return found | {"pre_mlp_layernorm.weight": norm} | mixture(layer.under("mlp."))
    if config["model_type"] == "deepseek_v3":
        found |= {"pre_mlp_layernorm.weight": norm, "mlp.linear_fc1.layer_norm_weight": norm}
    return found | gated_mlp(layer.under("mlp."), "mlp.")


def grouped_query_attention(layer: Part, config: dict[str, Any]) -> Tensors:
    """Rows of query, key and value by group of heads: the group's queries, its key, its value."""
    part = layer.under("self_attn.")
    groups = config["num_key_value_heads"]
    found = {
        "self_attention.linear_qkv.layer_norm_weight": layer["input_layernorm.weight"],
        "self_attention.linear_proj.weight": part["o_proj.weight"],
    }
    for kind in ("weight", "bias"):
        if f"q_proj.{kind}" in part:
            query, key, value = (part[f"{letter}_proj.{kind}"].chunk(groups) for letter in "qkv")
            rows = [rows for group in zip(query, key, value, strict=True) for rows in group]
            found[f"self_attention.linear_qkv.{kind}"] = torch.cat(rows)
    for letter in "qk":
        if f"{letter}_norm.weight" in part:
            found[f"self_attention.{letter}_layernorm.weight"] = part[f"{letter}_norm.weight"]
    return found


def latent_attention(layer: Part, config: dict[str, Any]) -> Tensors:
    """One matrix for one matrix: both sides hold heads one after the other, content before position."""
    part = layer.under("self_attn.")
    found = {
        "input_layernorm.weight": layer["input_layernorm.weight"],
        "self_attention.linear_kv_down_proj.weight": part["kv_a_proj_with_mqa.weight"],
        "self_attention.linear_kv_up_proj.weight": part["kv_b_proj.weight"],
        "self_attention.linear_kv_up_proj.layer_norm_weight": part["kv_a_layernorm.weight"],
        "self_attention.kv_layernorm.weight": part["kv_a_layernorm.weight"],
        "self_attention.linear_proj.weight": part["o_proj.weight"],
    }
    if config["q_lora_rank"] is None:
        return found | {"self_attention.linear_q_proj.weight": part["q_proj.weight"]}
    return found | {
        "self_attention.linear_q_down_proj.weight": part["q_a_proj.weight"],
        "self_attention.linear_q_up_proj.weight": part["q_b_proj.weight"],
        "self_attention.linear_q_up_proj.layer_norm_weight": part["q_a_layernorm.weight"],
        "self_attention.q_layernorm.weight": part["q_a_layernorm.weight"],
    }


def gated_mlp(mlp: Part, key: str) -> Tensors:
    """Gate above up."""
    return {
        f"{key}linear_fc1.weight": torch.cat([mlp["gate_proj.weight"], mlp["up_proj.weight"]]),
        f"{key}linear_fc2.weight": mlp["down_proj.weight"],
    }


def mixture(mlp: Part) -> Tensors:
    """Router, the shared expert, and the routed ones in a stack."""
    found = {"mlp.router.weight": mlp["gate.weight"]}
    experts: list[Tensors] = []
    while f"experts.{len(experts)}.gate_proj.weight" in mlp:
        experts.append(gated_mlp(mlp.under(f"experts.{len(experts)}."), "mlp.experts.experts."))
    found |= {key: torch.stack([expert[key] for expert in experts]) for key in experts[0]}
    if "gate.e_score_correction_bias" in mlp:
        found["mlp.router.expert_bias"] = mlp["gate.e_score_correction_bias"]
    if "shared_experts.gate_proj.weight" in mlp:
        found |= gated_mlp(mlp.under("shared_experts."), "mlp.shared_experts.")
    return found
