"""Weight maps: one declarative map per model family between Hugging Face and Megatron tensors.

Used three times: offline conversion in both directions (`mindrl.checkpoint`) and weight sync from a training backend
to a rollout engine (`mindrl.models`). Nothing here imports torch before a tensor is handed in.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindrl.errors import RequestError
from mindrl.weight_maps import multi_token
from mindrl.weight_maps.architecture import Architecture, LatentAttention, MixtureOfExperts, read_config
from mindrl.weight_maps.extra_state import extra_state_keys
from mindrl.weight_maps.families import FAMILIES
from mindrl.weight_maps.layers import decoder
from mindrl.weight_maps.multi_token import MTP_PREFIX
from mindrl.weight_maps.rules import HfTensor, Place, RowBlock, TensorRule, WeightMap

__all__ = [
    "FAMILIES",
    "MTP_PREFIX",
    "Architecture",
    "HfTensor",
    "LatentAttention",
    "MixtureOfExperts",
    "Place",
    "RowBlock",
    "TensorRule",
    "WeightMap",
    "architecture_of",
    "extra_state_keys",
    "read_architecture",
    "weight_map",
]


def architecture_of(config: Mapping[str, Any], *, weights_only: bool = False) -> Architecture:
    """Read a config.json (transformers 4 or 5); `RequestError` names what is not supported.

    `weights_only`: the model is not going to be run, and what decides its forward pass only is accepted."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise RequestError(
            f"config.json says model_type {model_type!r}, which has no weight map. "
            f"There are maps for: {', '.join(sorted(FAMILIES))}."
        )
    architecture = FAMILIES[model_type].architecture(config)
    if architecture.unsupported and not weights_only:
        raise RequestError(
            f"config.json of this {model_type} model asks for {', '.join(architecture.unsupported)}: not supported by "
            "training, evaluation and planning. Its weights can be converted."
        )
    return architecture


def read_architecture(hf_dir: Path, *, weights_only: bool = False) -> Architecture:
    """`architecture_of` the config.json in a Hugging Face directory."""
    return architecture_of(read_config(hf_dir), weights_only=weights_only)


def weight_map(arch: Architecture, mtp: bool = False) -> WeightMap:
    """The model's rules, expanded over its layers; with `mtp` those of its layers for multi-token prediction too."""
    parts = FAMILIES[arch.family].LAYER
    rules = [*decoder(arch, parts)]
    if not mtp:
        return WeightMap(arch, tuple(rules))
    rules.extend(multi_token.mtp_layers(arch, parts))
    return WeightMap(arch, tuple(rules), mtp=True, copies=multi_token.copies(arch))
