"""Rewards that compare mathematical expressions."""

import logging
from collections.abc import Mapping

from math_verify import parse, verify

from mindrl.boxed import last_boxed
from mindrl.rewards.result import RewardResult

logging.getLogger("math_verify").setLevel(
    logging.ERROR
)  # it warns that its time-outs are off, which is the intent


def boxed_math(prompt: str, response: str, ground_truth: str, extra: Mapping[str, object]) -> RewardResult:
    """1 if the response's last `\\boxed{}` equals the ground truth as mathematics (`\\frac12` is `0.5`).

    math-verify's own time-outs are off: they raise SIGALRM, which works in a main thread only and cannot interrupt
    the arithmetic that really hangs. The pool kills the process instead."""
    boxed = last_boxed(response)
    if boxed is None:
        return RewardResult(0.0, {"boxed": 0.0})
    wanted = last_boxed(ground_truth) or ground_truth
    if boxed.strip() == wanted.strip():
        return RewardResult(1.0, {"boxed": 1.0})
    equal = verify(_parse(wanted), _parse(boxed), timeout_seconds=None)
    return RewardResult(float(equal), {"boxed": 1.0})


def _parse(expression: str) -> list[object]:
    return parse(f"\\boxed{{{expression}}}", parsing_timeout=None)
