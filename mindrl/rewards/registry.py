"""Reward functions by name.

A reward is a pure function `(prompt, response, ground_truth, extra) -> RewardResult`. The built-in ones are in the
table below; a user's own is named by its path, `my_package.my_module:my_function`.
"""

from collections.abc import Callable, Mapping
from typing import cast

from mindrl.config.functions import find_function
from mindrl.rewards.result import RewardResult

RewardFunction = Callable[[str, str, str, Mapping[str, object]], RewardResult]
"""`(prompt, response, ground_truth, extra) -> RewardResult`"""

FUNCTIONS = {
    "exact_match": "mindrl.rewards.text:exact_match",
    "last_number": "mindrl.rewards.text:last_number",
    "boxed_format": "mindrl.rewards.text:boxed_format",
    "boxed_math": "mindrl.rewards.mathematics:boxed_math",
}
"""Name -> path. Paths, so that only what a run uses is imported."""


def find(name: str) -> RewardFunction:
    """The function of that name or path; `RequestError` when there is none."""
    arguments = ("prompt", "response", "ground_truth", "extra")
    result = "mindrl.rewards.RewardResult"
    return cast(RewardFunction, find_function("reward function", name, FUNCTIONS, arguments, result))


def score(
    name: str,
    *,
    response: str,
    ground_truth: str,
    prompt: str = "",
    extra: Mapping[str, object] | None = None,
) -> float:
    """Score one response by hand, in this process and without a time limit.

    >>> score("exact_match", response="0134", ground_truth="0134")
    1.0
    """
    return find(name)(prompt, response, ground_truth, extra or {}).score
