"""Reward functions that misbehave, for the pool's tests."""

import os
from collections.abc import Mapping

from mindrl.rewards import RewardResult


def misbehave(prompt: str, response: str, ground_truth: str, extra: Mapping[str, object]) -> RewardResult:
    """Does what the response says."""
    if response == "hang":
        while True:
            pass
    if response == "exit":
        os._exit(0)
    if response == "raise":
        raise KeyError("no such thing")
    if response == "nan":
        return RewardResult(float("nan"))
    if response == "penalty":
        return RewardResult(-1.0)
    return RewardResult(float(response == ground_truth), {"length": float(len(response))})


def process_id(prompt: str, response: str, ground_truth: str, extra: Mapping[str, object]) -> RewardResult:
    """The process that scores."""
    return RewardResult(float(os.getpid()))


def imports_torch(prompt: str, response: str, ground_truth: str, extra: Mapping[str, object]) -> RewardResult:
    """Whether torch is imported in the process that scores."""
    import sys

    return RewardResult(float("torch" in sys.modules))
