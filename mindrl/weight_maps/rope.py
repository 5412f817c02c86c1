"""Rotary embedding as config.json describes it, in `rope_parameters` (transformers 5) or `rope_theta` and
`rope_scaling` (4). It decides nothing about weights, and what is not understood is named for those who run the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mindrl.errors import RequestError
from mindrl.weight_maps.numbers import number

LLAMA3_CONSTANTS = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""What Megatron-core computes, and all published models have."""
YARN_KEYS = frozenset(
    {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"}
)


@dataclass(frozen=True)
class Rope:
    """Base, scaling as in `Architecture.rope_scaling`, and what is asked for and not understood."""

    theta: float
    scaling: Mapping[str, Any] | None = None
    unsupported: tuple[str, ...] = ()


def read_rope(config: Mapping[str, Any], *, yarn: bool) -> Rope:
    """`yarn`: whether the family's attention is computed with that type, which is so for latent attention only."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(given, Mapping):
        raise RequestError(f"config.json: rope_parameters or rope_scaling is {given!r}, expected an object.")
    rope: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    theta = number("rope_theta", rope.pop("rope_theta", None) or config.get("rope_theta") or 10000.0)
    rope.setdefault("partial_rotary_factor", config.get("partial_rotary_factor") or 1.0)
    if (share := number("partial_rotary_factor", rope.pop("partial_rotary_factor"))) != 1:
        return Rope(theta, unsupported=(f"rotary embedding of a part of each head ({share})",))
    kind = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
    rope.pop("type", None)
    if kind == "default":
        return Rope(theta)
    if kind == "llama3" and _is_llama3(rope):
        return Rope(theta, {"rope_type": "llama3", "factor": number("factor", rope["factor"])})
    if kind == "yarn" and yarn:
        return _yarn(theta, rope)
    understood = f"'default', and 'llama3' with a factor and {LLAMA3_CONSTANTS}"
    return Rope(
        theta,
        unsupported=(f"rotary embedding of type {kind!r} with {rope} (computed here: {understood})",),
    )


def _is_llama3(rope: Mapping[str, Any]) -> bool:
    return "factor" in rope and all(rope.get(key) == value for key, value in LLAMA3_CONSTANTS.items())


def _yarn(theta: float, rope: Mapping[str, Any]) -> Rope:
    """Peng et al. 2023 as transformers 5.17 and Megatron-core 0.16.1 both compute it, with every default filled in.

    The factor of cosines and sines is m(mscale) / m(mscale_all_dim) where both are given and not 0, and else m(1), with
    m(s) = 0.1 s ln(factor) + 1; scores are multiplied by m(mscale_all_dim)^2. transformers does the latter for
    `mscale_all_dim` alone too, which Megatron-core can't."""
    rope = {key: value for key, value in rope.items() if (key, value) != ("truncate", True)}  # the default
    unknown = {key: value for key, value in rope.items() if key not in YARN_KEYS}
    missing = [key for key in ("factor", "original_max_position_embeddings") if key not in rope]
    both = bool(rope.get("mscale")) and bool(rope.get("mscale_all_dim"))
    if unknown or missing or (rope.get("mscale_all_dim") and not both):
        wrong = (
            f"{unknown}"
            if unknown
            else f"without {missing[0]}"
            if missing
            else "mscale_all_dim and no mscale"
        )
        return Rope(theta, unsupported=(f"rotary embedding of type 'yarn' with {wrong}",))
    numbers = {key: number(key, value) for key, value in rope.items()}
    return Rope(
        theta,
        {
            "rope_type": "yarn",
            "factor": numbers["factor"],
            "original_max_position_embeddings": int(numbers["original_max_position_embeddings"]),
            "beta_fast": numbers.get("beta_fast") or 32.0,
            "beta_slow": numbers.get("beta_slow") or 1.0,
            "mscale": numbers["mscale"] if both else 1.0,
            "mscale_all_dim": numbers["mscale_all_dim"] if both else 0.0,
        },
    )
