"""Rewards that compare text."""

import re
from collections.abc import Mapping
from decimal import Decimal

from mindrl.boxed import BOX, last_boxed
from mindrl.rewards.result import RewardResult

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def exact_match(prompt: str, response: str, ground_truth: str, extra: Mapping[str, object]) -> RewardResult:
    """1 if the whole response, or what its last `\\boxed{}` holds, is the ground truth; blanks around it aside."""
    answers = (response, last_boxed(response))
    return RewardResult(float(any(a is not None and a.strip() == ground_truth.strip() for a in answers)))


def last_number(prompt: str, response: str, ground_truth: str, extra: Mapping[str, object]) -> RewardResult:
    """1 if the last number in the response equals the ground truth, as GSM8K is usually scored."""
    found, wanted = _NUMBER.findall(response), _NUMBER.findall(ground_truth)
    return RewardResult(float(bool(found and wanted) and _value(found[-1]) == _value(wanted[-1])))


def boxed_format(prompt: str, response: str, ground_truth: str, extra: Mapping[str, object]) -> RewardResult:
    """1 if the response holds exactly one `\\boxed{}`, and something is in it; right or wrong."""
    content = last_boxed(response)
    return RewardResult(float(bool(content and content.strip()) and response.count(BOX) == 1))


def _value(number: str) -> Decimal:
    return Decimal(number.replace(",", ""))
