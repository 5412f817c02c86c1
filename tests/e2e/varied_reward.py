"""A reward that tells the responses of an untrained model apart, so that short runs have gradients."""

from collections.abc import Mapping

from mindrl.rewards import RewardResult


def early_letters(prompt: str, response: str, ground_truth: str, extra: Mapping[str, object]) -> RewardResult:
    """Share of characters in the first half of ASCII."""
    return RewardResult(sum(ord(letter) < 64 for letter in response) / max(1, len(response)))
