"""Random tiny models as Hugging Face directories, and comparison of two such directories."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM

Tensors = dict[str, torch.Tensor]

SIZES: dict[str, Any] = {
    "vocab_size": 61,  # odd, so that two tensor-parallel ranks need padding
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED_QUERIES: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 16}
DEEPSEEK: dict[str, Any] = {
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", GROUPED_QUERIES),
    "qwen2": ("qwen2", GROUPED_QUERIES),
    "qwen3": ("qwen3", GROUPED_QUERIES),
    "qwen3_moe": (
        "qwen3_moe",
        GROUPED_QUERIES
        | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True},
    ),
    "deepseek_v3": (
        "deepseek_v3",
        DEEPSEEK | {"q_lora_rank": 24, "n_group": 2, "topk_group": 1, "n_shared_experts": 1},
    ),
    "moonlight": (
        "deepseek_v3",
        DEEPSEEK | {"q_lora_rank": None, "n_group": 1, "topk_group": 1, "n_shared_experts": 2},
    ),
}
"""`model_type` of each family, and what its config.json says beyond `SIZES`."""
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
"""DeepSeek-V3's kind of rope, for `rope_parameters`."""


def write_model(
    directory: Path,
    family: str,
    *,
    tied: bool = True,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
    mtp: int = 0,
    router_bias_dtype: torch.dtype | None = None,
    **overrides: Any,
) -> Path:
    """A random model of a family of `FAMILIES`, complete with generation config and tokenizer.

    `mtp`: number of layers for multi-token prediction, named as DeepSeek-V3 publishes them. `router_bias_dtype`: type of
    `e_score_correction_bias` where it is not `dtype`. `overrides`: settings of config.json."""
    torch.manual_seed(0)
    model_type, settings = FAMILIES[family]
    if model_type == "deepseek_v3":
        settings = settings | {"num_nextn_predict_layers": mtp}
    config = AutoConfig.for_model(model_type, tie_word_embeddings=tied, **(SIZES | settings | overrides))
    model = AutoModelForCausalLM.from_config(config)
    _randomize(model)
    model.to(dtype).save_pretrained(directory, max_shard_size=max_shard_size)
    if mtp or router_bias_dtype is not None:
        tensors = tensors_of(directory)
        for layer in range(config.num_hidden_layers, config.num_hidden_layers + mtp):
            tensors |= _prediction_layer(tensors, layer)
        for name in tensors:
            if name.endswith("e_score_correction_bias"):
                tensors[name] = tensors[name].to(router_bias_dtype or dtype)
        save_torch_state_dict(tensors, directory, max_shard_size=max_shard_size)
    _write_tokenizer(directory, config.vocab_size)
    return directory


def _randomize(model: torch.nn.Module) -> None:
    """No tensor keeps its initial values, which are the same number all over for norms, biases and router biases."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            else:
                parameter.normal_(0, 0.15)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(0, 0.3)


def _prediction_layer(tensors: Tensors, layer: int) -> Tensors:
    """Layer number `layer`, after the model's: one with experts, copies of embedding and output layer, and what joins
    the two hidden states (DeepSeek-V3's published names)."""
    last = max(name for name in tensors if name.endswith("mlp.gate.weight")).removesuffix("mlp.gate.weight")
    home = f"model.layers.{layer}."
    norm = tensors["model.norm.weight"]
    embedding = tensors["model.embed_tokens.weight"]
    new = {
        home + name.removeprefix(last): torch.randn_like(tensor) * 0.15
        for name, tensor in tensors.items()
        if name.startswith(last)
    }
    new |= {home + name: 1 + 0.3 * torch.randn_like(norm) for name in ("enorm.weight", "hnorm.weight")}
    return new | {
        f"{home}shared_head.norm.weight": 1 + 0.3 * torch.randn_like(norm),
        f"{home}eh_proj.weight": torch.randn(len(norm), 2 * len(norm), dtype=norm.dtype) * 0.15,
        f"{home}embed_tokens.weight": embedding.clone(),
        f"{home}shared_head.head.weight": tensors.get("lm_head.weight", embedding).clone(),
    }


def _write_tokenizer(directory: Path, vocab_size: int) -> None:
    """One token for each number below `vocab_size`."""
    numbers = {str(number): number for number in range(vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


def tensors_of(directory: Path) -> Tensors:
    return {name: t for path in directory.glob("*.safetensors") for name, t in load_file(path).items()}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def assert_same_bits(actual: Path, expected: Path) -> None:
    """Same names, types, shapes and bits."""
    left, right = tensors_of(actual), tensors_of(expected)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert (tensor.dtype, tensor.shape) == (right[name].dtype, right[name].shape), name
        assert torch.equal(bits(tensor), bits(right[name])), name
