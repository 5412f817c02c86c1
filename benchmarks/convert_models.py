"""Hugging Face directories of real shapes for `convert.py`: random values that are never zero, or headers alone.

The shapes come from the weight maps. Matrices are FP8 as DeepSeek-V3 is published: those of attention, MLPs and experts.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mindrl.weight_maps import architecture_of, weight_map

QWEN25_7B = Path(__file__).parents[1] / "configs/model/qwen2.5-7b/config.json"
DEEPSEEK_V3: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "attention_bias": False,
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000.0,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "v_head_dim": 128,
    "vocab_size": 129280,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
}
"""As published."""
SLICE = {
    "num_hidden_layers": 4,
    "num_nextn_predict_layers": 0,
    "first_k_dense_replace": 1,
    "n_routed_experts": 16,
    "vocab_size": 4096,
}
"""Few layers and experts at full width, and so little vocabulary that nearly all is FP8, as in the whole model."""
TINY_QWEN = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 4096,
}
TINY_DEEPSEEK = SLICE | {
    "hidden_size": 256,
    "intermediate_size": 512,
    "kv_lora_rank": 64,
    "moe_intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 128,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
}

FILE_BYTES = 43 * 10**8
"""Of a file, as DeepSeek-V3 and Qwen2.5 are published."""
_ITEM_SIZES = {"BF16": 2, "F8_E4M3": 1, "F32": 4}
_NOT_FP8 = ("embed_tokens", "lm_head", "norm", "mlp.gate.", "bias", "eh_proj", "shared_head.head")
_BLOCK = 128
_POOL_BYTES = 32 << 20


@dataclass(frozen=True)
class _Tensor:
    name: str
    code: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * _ITEM_SIZES[self.code]


def model_bytes(config: Mapping[str, Any]) -> int:
    """Of the weights, scales included."""
    return sum(tensor.num_bytes for tensor in _tensors(config))


def write_model(directory: Path, config: Mapping[str, Any], *, headers_only: bool = False) -> Path:
    """A directory with index, `config.json` and files that are filled with random values, or holes that take no room."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    files = list(_dealt_out(_tensors(config)))
    pools = {} if headers_only else _pools()
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(files, 1):
        name = f"model-{number:05d}-of-{len(files):06d}.safetensors"
        _write_file(directory / name, tensors, pools)
        weight_map |= dict.fromkeys((tensor.name for tensor in tensors), name)
    index = {"metadata": {"total_size": model_bytes(config)}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def _tensors(config: Mapping[str, Any]) -> Iterator[_Tensor]:
    fp8 = "quantization_config" in config
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    weights = weight_map(architecture_of(plain), mtp=bool(config.get("num_nextn_predict_layers")))
    shapes = {tensor.name: tensor.shape for tensor in weights.hf_tensors}
    shapes |= {copy: shapes[original] for copy, original in weights.copies.items()}
    for name, shape in shapes.items():
        if fp8 and not any(part in name for part in _NOT_FP8):
            yield _Tensor(name, "F8_E4M3", shape)
            yield _Tensor(f"{name}_scale_inv", "F32", tuple(-(-size // _BLOCK) for size in shape))
        else:
            yield _Tensor(name, "F32" if "correction_bias" in name else "BF16", shape)


def _dealt_out(tensors: Iterator[_Tensor]) -> Iterator[list[_Tensor]]:
    file: list[_Tensor] = []
    filled = 0
    for tensor in tensors:
        if file and filled + tensor.num_bytes > FILE_BYTES:
            yield file
            file, filled = [], 0
        file.append(tensor)
        filled += tensor.num_bytes
    yield file


def _write_file(path: Path, tensors: list[_Tensor], pools: Mapping[str, npt.NDArray[np.uint8]]) -> None:
    header: dict[str, Any] = {}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.num_bytes
        header[tensor.name] = {"dtype": tensor.code, "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for number, tensor in enumerate(tensors if pools else ()):
            pool = pools[tensor.code]
            first = number * 4 * 7919 % len(pool)  # so that tensors differ
            for start in range(first, first + tensor.num_bytes, len(pool)):
                length = min(len(pool), first + tensor.num_bytes - start)
                place = start % len(pool)
                file.write(pool[place : place + length].data)
                file.write(pool[: max(0, place + length - len(pool))].data)
        file.truncate(8 + len(text) + end)


def _pools() -> dict[str, npt.NDArray[np.uint8]]:
    """Values of each type, none of them zero, infinite or NaN."""
    generator = np.random.default_rng(0)
    halves = generator.integers(0, 1 << 16, _POOL_BYTES // 2, np.uint16) & 0xBFFF | 0x2000  # below 2
    codes = generator.integers(0, 256, _POOL_BYTES, np.uint8)
    codes[(codes & 0x7F == 0x7F) | (codes & 0x7F == 0)] = 0x38  # 1
    scales = generator.uniform(1e-5, 1e-3, _POOL_BYTES // 4).astype(np.float32)
    return {"BF16": halves.view(np.uint8), "F8_E4M3": codes, "F32": scales.view(np.uint8)}
