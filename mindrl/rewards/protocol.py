"""What the pool and its scoring processes say to each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field

READY = "ready"
"""A scoring process's first message: the functions are imported."""


@dataclass(frozen=True, slots=True)
class RewardItem:
    """One response to be scored."""

    response: str
    ground_truth: str
    prompt: str = ""
    extra: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True)
class Scored:
    """A scoring process's answer for one item."""

    index: int
    """Of the item in the call."""
    by_function: tuple[float, ...]
    """[num_functions] unweighted; 0 for a function that raised."""
    reasons: Mapping[str, float]
    """Parts of the scores, `<function>/<part>`."""
    crashed: bool
    """Whether a function raised, or returned what is not a finite score."""
