"""Weight maps: one declarative map per model family between Hugging Face and Megatron tensors.

Used three times: offline conversion in both directions (`mindrl.checkpoint`) and weight sync from a training backend
to a rollout engine (`mindrl.models`). Nothing here imports torch before a tensor is handed in.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindrl.errors import RequestError
from mindrl.weight_maps import llama, qwen2, qwen3
from mindrl.weight_maps.architecture import Architecture, read_config
from mindrl.weight_maps.dense import whole_model
from mindrl.weight_maps.rules import HfTensor, RowBlock, TensorRule, WeightMap

__all__ = [
    "FAMILIES",
    "Architecture",
    "HfTensor",
    "RowBlock",
    "TensorRule",
    "WeightMap",
    "architecture_of",
    "read_architecture",
    "weight_map",
]

FAMILIES = {family.MODEL_TYPE: family for family in (llama, qwen2, qwen3)}
"""Family file by `model_type`."""


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """Read a config.json (transformers 4 or 5); `RequestError` names what is not supported."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise RequestError(
            f"config.json says model_type {model_type!r}, which has no weight map. "
            f"There are maps for: {', '.join(sorted(FAMILIES))}."
        )
    return FAMILIES[model_type].architecture(config)


def read_architecture(hf_dir: Path) -> Architecture:
    """`architecture_of` the config.json in a Hugging Face directory."""
    return architecture_of(read_config(hf_dir))


def weight_map(arch: Architecture) -> WeightMap:
    """The model's rules, expanded over its layers."""
    return WeightMap(arch, whole_model(arch, FAMILIES[arch.family].LAYER))
