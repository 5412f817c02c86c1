"""Rule rewards: pure functions by name, and the pool of processes that runs them under a time limit."""

from mindrl.rewards.pool import RewardItem, RewardOutcome, RewardPool
from mindrl.rewards.registry import FUNCTIONS, RewardFunction, find, score
from mindrl.rewards.result import RewardResult

__all__ = [
    "FUNCTIONS",
    "RewardFunction",
    "RewardItem",
    "RewardOutcome",
    "RewardPool",
    "RewardResult",
    "find",
    "score",
]
