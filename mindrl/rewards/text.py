"""Rewards that compare text."""

import re
from collections.abc import Mapping
from decimal import Decimal

from mindrl.rewards.result import RewardResult

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_BOXED = "\\boxed{"


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
    return RewardResult(float(bool(content and content.strip()) and response.count(_BOXED) == 1))


def last_boxed(text: str) -> str | None:
    """What stands in the last `\\boxed{...}`, braces inside it balanced; None where there is none or it never ends."""
    start = text.rfind(_BOXED)
    if start < 0:
        return None
    depth = 0
    content = text[start + len(_BOXED) :]
    for position, character in enumerate(content):
        escaped = position > 0 and content[position - 1] == "\\"
        if character == "{" and not escaped:
            depth += 1
        elif character == "}" and not escaped:
            if depth == 0:
                return content[:position]
            depth -= 1
    return None


def _value(number: str) -> Decimal:
    return Decimal(number.replace(",", ""))
