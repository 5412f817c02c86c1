"""Weight maps: one declarative map per model family between Hugging Face and Megatron tensors.

Used three times: offline conversion in both directions (`mindrl.checkpoint`) and weight sync from a training backend
to a rollout engine (`mindrl.models`). Nothing here imports torch before a tensor is handed in.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindrl.errors import RequestError
from mindrl.weight_maps import deepseek_v3, llama, qwen2, qwen3, qwen3_moe
from mindrl.weight_maps.architecture import Architecture, LatentAttention, MixtureOfExperts, read_config
from mindrl.weight_maps.dense import whole_model
from mindrl.weight_maps.rules import HfTensor, Place, RowBlock, TensorRule, WeightMap

__all__ = [
    "FAMILIES",
    "WITHOUT_MAP",
    "Architecture",
    "HfTensor",
    "LatentAttention",
    "MixtureOfExperts",
    "Place",
    "RowBlock",
    "TensorRule",
    "WeightMap",
    "architecture_of",
    "read_architecture",
    "require_map",
    "weight_map",
]

FAMILIES = {family.MODEL_TYPE: family for family in (llama, qwen2, qwen3)}
"""Family file by `model_type`."""
WITHOUT_MAP = {family.MODEL_TYPE: family for family in (qwen3_moe, deepseek_v3)}
"""Families that `mindrl plan` knows and that can't be converted, trained or evaluated yet."""


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """Read a config.json (transformers 4 or 5); `RequestError` names what is not supported."""
    model_type = config.get("model_type")
    families = FAMILIES | WITHOUT_MAP
    if not isinstance(model_type, str) or model_type not in families:
        raise RequestError(
            f"config.json says model_type {model_type!r}, which has no weight map. "
            f"There are maps for: {', '.join(sorted(FAMILIES))}; "
            f"`mindrl plan` knows also: {', '.join(sorted(WITHOUT_MAP))}."
        )
    return families[model_type].architecture(config)


def read_architecture(hf_dir: Path) -> Architecture:
    """`architecture_of` the config.json in a Hugging Face directory."""
    return architecture_of(read_config(hf_dir))


def require_map(arch: Architecture) -> None:
    """`RequestError` naming the family that can be planned for, and not be converted, trained or evaluated yet."""
    if arch.family in WITHOUT_MAP:
        raise RequestError(
            f"{WITHOUT_MAP[arch.family].TITLE} (model_type {arch.model_type}): conversion, training and evaluation of "
            f"this family are not there yet, `mindrl plan` works. There are maps for: {', '.join(sorted(FAMILIES))}."
        )


def weight_map(arch: Architecture) -> WeightMap:
    """The model's rules, expanded over its layers; `RequestError` for a family of `WITHOUT_MAP`."""
    require_map(arch)
    return WeightMap(arch, whole_model(arch, FAMILIES[arch.family].LAYER))
