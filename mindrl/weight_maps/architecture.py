"""What of a model's config.json decides its weights and its forward pass, the same for every family."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindrl.errors import RequestError
from mindrl.files import read_json_object

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Architecture:
    """A decoder-only language model with grouped-query attention and a gated MLP."""

    family: str
    """Name of the weight map, one of `mindrl.weight_maps.FAMILIES`."""
    model_type: str
    """As config.json says it."""
    num_layers: int
    hidden_size: int
    intermediate_size: int
    """Width of the gated MLP: gate and up projections have this many rows each."""
    num_heads: int
    num_kv_heads: int
    """Key and value heads; each serves num_heads / num_kv_heads query heads."""
    head_dim: int
    vocab_size: int
    """Rows of the embedding, unpadded."""
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: Mapping[str, Any] | None
    """None for plain rotary embedding, else `{"rope_type": "llama3", "factor": ...}` with Megatron's constants."""
    qkv_bias: bool
    """Query, key and value projections have a bias; no other projection has."""
    qk_norm: bool
    """RMS norm over head_dim on queries and keys."""
    tied_embeddings: bool
    """The output layer is the embedding."""
    dtype: str
    """Type of the weights on disk: one of `DTYPES`."""

    @property
    def heads_per_group(self) -> int:
        """Query heads that share one key and value head."""
        return self.num_heads // self.num_kv_heads


def read_config(hf_dir: Path) -> dict[str, Any]:
    """The config.json of a Hugging Face directory."""
    path = hf_dir / "config.json"
    if not path.exists():
        raise RequestError(f"{hf_dir} was given as a Hugging Face directory, but {path} does not exist.")
    return read_json_object(path)


def dense_architecture(
    config: Mapping[str, Any], *, family: str, qkv_bias: bool, qk_norm: bool, head_dim: int | None = None
) -> Architecture:
    """Read the fields that all dense families share; `head_dim` is the family's default, if it has one of its own.

    Raises `RequestError` for what a map without it would get silently wrong."""
    _refuse_unsupported(config)
    num_heads = _positive(config, "num_attention_heads")
    num_kv_heads = _positive(config, "num_key_value_heads", default=num_heads)
    hidden_size = _positive(config, "hidden_size")
    if num_heads % num_kv_heads:
        raise RequestError(
            f"config.json has {num_heads} attention heads and {num_kv_heads} key-value heads: "
            "the first must be a multiple of the second."
        )
    theta, scaling = _rope(config)
    return Architecture(
        family=family,
        model_type=config["model_type"],
        num_layers=_positive(config, "num_hidden_layers"),
        hidden_size=hidden_size,
        intermediate_size=_positive(config, "intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=_positive(config, "head_dim", default=head_dim or hidden_size // num_heads),
        vocab_size=_positive(config, "vocab_size"),
        max_position_embeddings=_positive(config, "max_position_embeddings"),
        rms_norm_eps=_number("rms_norm_eps", config.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scaling=scaling,
        qkv_bias=qkv_bias,
        qk_norm=qk_norm,
        tied_embeddings=_flag(config, "tie_word_embeddings"),
        dtype=_dtype(config),
    )


def _positive(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RequestError(f"config.json: {key} is {value!r}, expected a positive integer.")
    return value


def _number(key: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise RequestError(f"config.json: {key} is {value!r}, expected a number.")
    return float(value)


def _flag(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key, False)
    if value not in (True, False, None):
        raise RequestError(f"config.json: {key} is {value!r}, expected true or false.")
    return bool(value)


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    """Name every setting that changes the forward pass and that no map here carries."""
    activation = config.get("hidden_act", "silu")
    reasons = {
        f"hidden_act {activation!r} (only silu)": activation not in ("silu", "swish"),
        "attention_bias (a bias on the attention output)": bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        "sliding-window attention": _uses_sliding_window(config),
        "quantization_config (quantised weights)": bool(config.get("quantization_config")),
    }
    found = [reason for reason, unsupported in reasons.items() if unsupported]
    if found:
        raise RequestError(
            f"config.json of this {config['model_type']} model asks for {', '.join(found)}: not supported."
        )


def _uses_sliding_window(config: Mapping[str, Any]) -> bool:
    if "layer_types" in config and config["layer_types"] is not None:
        if not isinstance(config["layer_types"], list):
            raise RequestError(f"config.json: layer_types is {config['layer_types']!r}, expected a list.")
        return any(kind != "full_attention" for kind in config["layer_types"])
    if not config.get("use_sliding_window"):
        return False
    first_sliding_layer = _number("max_window_layers", config.get("max_window_layers", 0))
    return first_sliding_layer < _positive(config, "num_hidden_layers")


def _rope(config: Mapping[str, Any]) -> tuple[float, Mapping[str, Any] | None]:
    """Base and scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (4)."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(given, Mapping):
        raise RequestError(f"config.json: rope_parameters or rope_scaling is {given!r}, expected an object.")
    rope = dict(given)
    theta = _number("rope_theta", rope.pop("rope_theta", None) or config.get("rope_theta") or 10000.0)
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
    return theta, {"rope_type": "llama3", "factor": _number("factor", rope["factor"])}


def _dtype(config: Mapping[str, Any]) -> str:
    dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    if dtype not in DTYPES:
        raise RequestError(f"config.json: dtype is {dtype!r}, expected one of {', '.join(DTYPES)}.")
    return dtype
