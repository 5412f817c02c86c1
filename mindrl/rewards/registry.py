"""Reward functions by name.

A reward is a pure function `(prompt, response, ground_truth, extra) -> RewardResult`. The built-in ones are in the
table below; a user's own is named by its path, `my_package.my_module:my_function`.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import cast

from mindrl.config.functions import find_function
from mindrl.errors import RequestError
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
    function = cast(RewardFunction, find_function("reward function", name, FUNCTIONS))
    _check_signature(name, function)
    return function


def _check_signature(name: str, function: RewardFunction) -> None:
    """`RequestError` for what can't be meant as a reward. Where nothing is annotated, its result shows in use only."""
    wanted = "a reward is called as f(prompt, response, ground_truth, extra) and returns a mindrl.rewards.RewardResult"
    if isinstance(function, type) or inspect.isbuiltin(function):
        kind = "class" if isinstance(function, type) else "function of Python itself"
        raise RequestError(f"reward function {name!r}: is a {kind}; {wanted}")
    signature = inspect.signature(function)
    try:
        signature.bind("", "", "", {})
    except TypeError as error:
        raise RequestError(f"reward function {name!r}: takes {signature} ({error}); {wanted}") from error
    if signature.return_annotation in (bool, float, int, str, None, "bool", "float", "int", "str", "None"):
        found = inspect.formatannotation(signature.return_annotation)
        raise RequestError(f"reward function {name!r}: returns {found}; {wanted}")


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
