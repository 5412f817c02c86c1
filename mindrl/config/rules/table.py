"""The table of rules, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mindrl.config.schema import Config

Rule = Callable[["Config"], str | None]
RULES: list[Rule] = []


def broken(config: Config) -> list[str]:
    """The sentence of every rule that the configuration breaks."""
    return [sentence for check in RULES if (sentence := check(config)) is not None]


def rule(check: Rule) -> Rule:
    """Add a rule to the table; its docstring appears in the reference page."""
    RULES.append(check)
    return check


def repeated(names: Sequence[str]) -> list[str]:
    """The names that occur more than once."""
    return sorted({name for name in names if names.count(name) > 1})
