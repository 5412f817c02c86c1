"""Single values of a config.json. Every function raises `RequestError` for what would otherwise be got silently wrong."""

import math
from collections.abc import Mapping
from typing import Any

from mindrl.errors import RequestError

MOST_COUNTED = 10_000
"""Experts, or layers of a kind: far above any model's; what is listed one by one would not end for a misprint."""


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
    """An integer that may be zero, which absent and null read as; no larger than `MOST_COUNTED`."""
    value = config.get(key) or 0
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RequestError(f"config.json: {key} is {value!r}, expected an integer that is not negative.")
    return positive(config, key, most=MOST_COUNTED) if value else 0


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
