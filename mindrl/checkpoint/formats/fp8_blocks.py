"""FP8 as DeepSeek-V3 is published in: e4m3 weights, and a scale for every block of 128 x 128 values in a tensor beside.

The weight NAME is its stored values times NAME_scale_inv, block by block; the last blocks of a dimension may be partial
(DeepSeek-AI 2024, DeepSeek-V3, section 3.3; `quant_method` "fp8" in config.json). The two may lie in different files.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mindrl.checkpoint.byte_plan import FP8, StoredTensor
from mindrl.errors import RequestError

BLOCK = 128
CONFIG_KEY = "quantization_config"
_SUFFIX = "_scale_inv"
_SCALE_DTYPES = ("float32", "bfloat16")
"""DeepSeek's scales are float32, those of some other models in this format bfloat16, which float32 holds exactly."""


def attach_scales(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors of a model with their scales in `StoredTensor.scales`, no longer under names of their own.

    `RequestError` for FP8 without scales, scales without FP8, and scales of another shape or type."""
    attached: dict[str, StoredTensor] = {}
    scales = {name: tensor for name, tensor in tensors.items() if name.endswith(_SUFFIX)}
    for name in tensors.keys() - scales.keys():
        tensor = tensors[name]
        if tensor.dtype == FP8:
            tensor = replace(tensor, scales=_fitting(tensor, scales.pop(name + _SUFFIX, None)))
        attached[name] = tensor
    for name, tensor in scales.items():
        weight = name.removesuffix(_SUFFIX)
        found = f"which is {tensors[weight].dtype}" if weight in tensors else "which no file has"
        raise RequestError(
            f"{name} in {tensor.path} holds scales for {weight}, {found}; expected FP8 (F8_E4M3). Files of two "
            "models, or of a conversion that was not finished, may have been mixed."
        )
    return {name: attached[name] for name in tensors if name in attached}


def without_fp8(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The config.json of the model with dequantised weights: `quantization_config` left out.

    `RequestError`, naming `path`, where that asks for anything but FP8 as understood here."""
    given = config.get(CONFIG_KEY)
    if given:
        expected = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [BLOCK, BLOCK]}
        # Published configs say fmt; transformers writes none, and has no other.
        found: Mapping[str, Any] = {"fmt": "e4m3", **given} if isinstance(given, Mapping) else {}
        if any(found.get(key) != value for key, value in expected.items()):
            raise RequestError(
                f"{path}: {CONFIG_KEY} is {given!r}; conversion reads FP8 with {expected} and no other quantised "
                "weights: take the model as its makers publish it in bfloat16, or dequantise it with their tools."
            )
    return {key: value for key, value in config.items() if key != CONFIG_KEY}


def _fitting(tensor: StoredTensor, scales: StoredTensor | None) -> StoredTensor:
    """`scales`, if they are those of `tensor`."""
    where = f"{tensor.name} in {tensor.path} is FP8 {tensor.shape}"
    if scales is None:
        raise RequestError(
            f"{where}, and no file has its scales, {tensor.name}{_SUFFIX}: conversion reads FP8 with a scale for every "
            f"block of {BLOCK} x {BLOCK} values. The file that holds them may be missing from the index."
        )
    expected = tuple(-(-size // BLOCK) for size in tensor.shape)
    if len(expected) != 2 or scales.shape != expected or scales.dtype not in _SCALE_DTYPES:
        raise RequestError(
            f"{where}; its scales in {scales.path} are {scales.dtype} {scales.shape}, expected "
            f"{' or '.join(_SCALE_DTYPES)} of shape {expected}: one for every block of {BLOCK} x {BLOCK} values."
        )
    return scales
