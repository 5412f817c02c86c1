"""What a reward function returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RewardResult:
    """Score of one response, and what it is made of."""

    score: float
    reasons: Mapping[str, float] = field(default_factory=dict[str, float])
    """Parts of the score by name, such as `{"format": 1.0, "timeout": 0.0}`."""
