"""Models of any size as Hugging Face directories of headers: every tensor is there, its bytes are a hole in the file.

Reading such a file gives zeros. `python tests/checkpoint/synthetic.py DIRECTORY [--fp8]` writes DeepSeek-V3's.
"""

import argparse
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from math import ceil, prod
from pathlib import Path
from typing import Any

from mindrl.weight_maps import architecture_of, weight_map

DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_nextn_predict_layers": 1,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 163840,
    "rope_theta": 10000,
    "rope_scaling": {
        "type": "yarn",
        "factor": 40,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
"""config.json of DeepSeek-V3 (671 billion parameters), as published, but for quantization_config."""
_BLOCK = 128
_SIZES = {"BF16": 2, "F32": 4, "F8_E4M3": 1}
_NEVER_FP8 = (
    "embed_tokens.weight",
    "lm_head.weight",
    "shared_head.head.weight",
    "mlp.gate.weight",
    "eh_proj.weight",
)

Entry = tuple[str, str, tuple[int, ...]]
"""Name, type as safetensors calls it, shape."""


def write_headers(
    directory: Path, config: Mapping[str, Any], *, fp8: bool = False, num_files: int = 163
) -> Path:
    """The model's directory, in bfloat16 or, where DeepSeek-V3 is published so, in FP8 with a scale for each block."""
    directory.mkdir(parents=True)
    quantised = {
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [_BLOCK, _BLOCK],
        }
    }
    (directory / "config.json").write_text(json.dumps({**config, **(quantised if fp8 else {})}))
    entries = list(_entries(config, fp8))
    largest = sum(_num_bytes(entry) for entry in entries) / num_files
    groups: list[list[Entry]] = [[] for _ in range(num_files)]
    before = 0
    for entry in entries:
        groups[min(int(before / largest), num_files - 1)].append(entry)
        before += _num_bytes(entry)
    weight_map_json: dict[str, str] = {}
    for number, group in enumerate(groups, start=1):
        name = f"model-{number:05d}-of-{num_files:06d}.safetensors"
        _write_file(directory / name, group)
        weight_map_json.update((entry[0], name) for entry in group)
    index = {"metadata": {"total_size": before}, "weight_map": weight_map_json}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def _entries(config: Mapping[str, Any], fp8: bool) -> Iterator[Entry]:
    arch = architecture_of(config)
    weights = weight_map(arch, mtp=arch.num_mtp_layers > 0)
    shapes = {tensor.name: tensor.shape for tensor in weights.hf_tensors}
    shapes |= {copy: shapes[original] for copy, original in weights.copies.items()}
    for name, shape in shapes.items():
        if fp8 and len(shape) == 2 and not name.endswith(_NEVER_FP8):
            yield name, "F8_E4M3", shape
            yield f"{name}_scale_inv", "F32", (ceil(shape[0] / _BLOCK), ceil(shape[1] / _BLOCK))
        else:
            yield name, "F32" if name.endswith("e_score_correction_bias") else "BF16", shape


def _num_bytes(entry: Entry) -> int:
    return prod(entry[2]) * _SIZES[entry[1]]


def _write_file(path: Path, entries: Sequence[Entry]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in entries:
        start, end = end, end + _num_bytes(entry)
        header[entry[0]] = {"dtype": entry[1], "shape": entry[2], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--fp8", action="store_true")
    given = parser.parse_args()
    write_headers(given.directory, DEEPSEEK_V3, fp8=given.fp8)
