"""Reads the fields of config.json (transformers 4 or 5) that families share.

What decides the tensors is refused by `RequestError` where it is not understood. What decides the forward pass only is
named in `Architecture.unsupported`: weights can be converted, and whoever runs the model refuses."""

from collections.abc import Mapping
from typing import Any, cast

from mindrl.errors import RequestError
from mindrl.weight_maps.architecture import Architecture
from mindrl.weight_maps.numbers import flag, number, positive
from mindrl.weight_maps.rope import read_rope

MOST_LAYERS = 10_000
MOST_HEADS = 100_000
"""Far above any model's; what is listed layer by layer and head by head would not end for a misprint."""
DTYPES = ("float32", "bfloat16", "float16")


def dense_architecture(
    config: Mapping[str, Any],
    *,
    family: str,
    qkv_bias: bool,
    qk_norm: bool,
    head_dim: int | None = None,
    yarn: bool = False,
) -> Architecture:
    """A model without experts and latent attention. `head_dim` is the family's default, if it has one of its own;
    `yarn`: whether rotary embedding of that type is computed for it."""
    _refuse_other_tensors(config)
    num_heads = positive(config, "num_attention_heads", most=MOST_HEADS)
    num_kv_heads = positive(config, "num_key_value_heads", default=num_heads)
    hidden_size = positive(config, "hidden_size")
    if num_heads % num_kv_heads:
        raise RequestError(
            f"config.json has {num_heads} attention heads and {num_kv_heads} key-value heads: "
            "the first must be a multiple of the second."
        )
    rope = read_rope(config, yarn=yarn)
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
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        qkv_bias=qkv_bias,
        qk_norm=qk_norm,
        tied_embeddings=flag(config, "tie_word_embeddings"),
        dtype=_dtype(config),
        unsupported=(*_other_forward_pass(config), *rope.unsupported),
    )


def _refuse_other_tensors(config: Mapping[str, Any]) -> None:
    """Name every setting by which a model has other tensors than any map here."""
    reasons = {
        "attention_bias (a bias on the attention output)": bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        _quantisation(config): bool(config.get("quantization_config")),
    }
    found = [reason for reason, unsupported in reasons.items() if unsupported]
    if found:
        raise RequestError(
            f"config.json of this {config['model_type']} model asks for {', '.join(found)}: not supported."
        )


def _quantisation(config: Mapping[str, Any]) -> str:
    given: object = config.get("quantization_config")
    if isinstance(given, Mapping) and cast("Mapping[str, Any]", given).get("quant_method") == "fp8":
        return "quantization_config (FP8 weights; `mindrl convert --from-fp8` makes bfloat16 of them first)"
    return "quantization_config (quantised weights)"


def _other_forward_pass(config: Mapping[str, Any]) -> list[str]:
    """Every setting with which the same tensors are computed with differently."""
    activation = config.get("hidden_act", "silu")
    reasons = {
        f"hidden_act {activation!r} (only silu)": activation not in ("silu", "swish"),
        "sliding-window attention": _uses_sliding_window(config),
    }
    return [reason for reason, unsupported in reasons.items() if unsupported]


def _uses_sliding_window(config: Mapping[str, Any]) -> bool:
    if "layer_types" in config and config["layer_types"] is not None:
        if not isinstance(config["layer_types"], list):
            raise RequestError(f"config.json: layer_types is {config['layer_types']!r}, expected a list.")
        return any(kind != "full_attention" for kind in config["layer_types"])
    if not config.get("use_sliding_window"):
        return False
    first_sliding_layer = number("max_window_layers", config.get("max_window_layers", 0))
    return first_sliding_layer < positive(config, "num_hidden_layers")


def _dtype(config: Mapping[str, Any]) -> str:
    dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    if dtype not in DTYPES:
        raise RequestError(f"config.json: dtype is {dtype!r}, expected one of {', '.join(DTYPES)}.")
    return dtype
