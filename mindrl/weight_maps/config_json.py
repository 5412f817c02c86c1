"""Reads the fields of config.json (transformers 4 or 5) that families share.

Every function raises `RequestError` for what would otherwise be got silently wrong."""

import math
from collections.abc import Mapping
from typing import Any

from mindrl.errors import RequestError
from mindrl.weight_maps.architecture import Architecture

MOST_LAYERS = 10_000
MOST_HEADS = 100_000
"""Far above any model's; what is listed layer by layer and head by head would not end for a misprint."""
DTYPES = ("float32", "bfloat16", "float16")


def dense_architecture(
    config: Mapping[str, Any], *, family: str, qkv_bias: bool, qk_norm: bool, head_dim: int | None = None
) -> Architecture:
    """A model without experts and latent attention; `head_dim` is the family's default, if it has one of its own."""
    _refuse_unsupported(config)
    num_heads = positive(config, "num_attention_heads", most=MOST_HEADS)
    num_kv_heads = positive(config, "num_key_value_heads", default=num_heads)
    hidden_size = positive(config, "hidden_size")
    if num_heads % num_kv_heads:
        raise RequestError(
            f"config.json has {num_heads} attention heads and {num_kv_heads} key-value heads: "
            "the first must be a multiple of the second."
        )
    theta, scaling = _rope(config)
    return Architecture(
        family=family,
        model_type=config["model_type"],
        num_layers=positive(config, "num_hidden_layers", most=MOST_LAYERS),
        hidden_size=hidden_size,
        intermediate_size=positive(config, "intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=positive(config, "head_dim", default=head_dim or hidden_size // num_heads),
        vocab_size=positive(config, "vocab_size"),
        max_position_embeddings=positive(config, "max_position_embeddings"),
        rms_norm_eps=number("rms_norm_eps", config.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scaling=scaling,
        qkv_bias=qkv_bias,
        qk_norm=qk_norm,
        tied_embeddings=flag(config, "tie_word_embeddings"),
        dtype=_dtype(config),
    )


def positive(config: Mapping[str, Any], key: str, default: int | None = None, most: int | None = None) -> int:
    """A positive integer, no larger than `most`; null reads as absent."""
    value = config.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RequestError(f"config.json: {key} is {value!r}, expected a positive integer.")
    if most is not None and value > most:
        raise RequestError(
            f"config.json: {key} is {value}; no model has more than {most}: this must be a mistake."
        )
    return value


def count(config: Mapping[str, Any], key: str) -> int:
    """An integer that may be zero, which absent and null read as."""
    value = config.get(key) or 0
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RequestError(f"config.json: {key} is {value!r}, expected an integer that is not negative.")
    return value


def experts_per_token(config: Mapping[str, Any], num_experts: int) -> int:
    """`num_experts_per_tok`: no more than there are."""
    per_token = positive(config, "num_experts_per_tok")
    if per_token > num_experts:
        raise RequestError(
            f"config.json: num_experts_per_tok is {per_token}, and there are {num_experts} experts to choose from."
        )
    return per_token


def number(key: str, value: object) -> float:
    """A finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise RequestError(f"config.json: {key} is {value!r}, expected a number.")
    return float(value)


def flag(config: Mapping[str, Any], key: str, default: bool = False) -> bool:
    """A truth value; null reads as false."""
    value = config.get(key, default)
    if value not in (True, False, None):
        raise RequestError(f"config.json: {key} is {value!r}, expected true or false.")
    return bool(value)


def expect(config: Mapping[str, Any], key: str, allowed: object) -> None:
    """Refuse another value than the only one that is understood; absent and null are fine."""
    value = config.get(key)
    if value is not None and value != allowed:
        raise RequestError(f"config.json: {key} is {value!r}; supported is only {allowed!r}.")


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    """Name every setting that changes the forward pass and that no map here carries."""
    activation = config.get("hidden_act", "silu")
    reasons = {
        f"hidden_act {activation!r} (only silu)": activation not in ("silu", "swish"),
        "attention_bias (a bias on the attention output)": bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        "sliding-window attention": _uses_sliding_window(config),
        _quantisation(config): bool(config.get("quantization_config")),
    }
    found = [reason for reason, unsupported in reasons.items() if unsupported]
    if found:
        raise RequestError(
            f"config.json of this {config['model_type']} model asks for {', '.join(found)}: not supported."
        )


def _quantisation(config: Mapping[str, Any]) -> str:
    given = config.get("quantization_config")
    if isinstance(given, Mapping) and given.get("quant_method") == "fp8":
        return "quantization_config (FP8 weights; `mindrl convert --from-fp8` makes bfloat16 of them first)"
    return "quantization_config (quantised weights)"


def _uses_sliding_window(config: Mapping[str, Any]) -> bool:
    if "layer_types" in config and config["layer_types"] is not None:
        if not isinstance(config["layer_types"], list):
            raise RequestError(f"config.json: layer_types is {config['layer_types']!r}, expected a list.")
        return any(kind != "full_attention" for kind in config["layer_types"])
    if not config.get("use_sliding_window"):
        return False
    first_sliding_layer = number("max_window_layers", config.get("max_window_layers", 0))
    return first_sliding_layer < positive(config, "num_hidden_layers")


def _rope(config: Mapping[str, Any]) -> tuple[float, Mapping[str, Any] | None]:
    """Base and scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (4)."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(given, Mapping):
        raise RequestError(f"config.json: rope_parameters or rope_scaling is {given!r}, expected an object.")
    rope = dict(given)
    theta = number("rope_theta", rope.pop("rope_theta", None) or config.get("rope_theta") or 10000.0)
    kind = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
    if kind == "default":
        return theta, None
    megatron_constants = {
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    different = {key: rope.get(key) for key, value in megatron_constants.items() if rope.get(key) != value}
    if kind != "llama3" or different or "factor" not in rope:
        raise RequestError(
            f"config.json asks for rotary embedding of type {kind!r} with {rope}: supported are 'default', and "
            f"'llama3' with a factor and {megatron_constants} (what Megatron-core computes)."
        )
    return theta, {"rope_type": "llama3", "factor": number("factor", rope["factor"])}


def _dtype(config: Mapping[str, Any]) -> str:
    dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    if dtype not in DTYPES:
        raise RequestError(f"config.json: dtype is {dtype!r}, expected one of {', '.join(DTYPES)}.")
    return dtype
