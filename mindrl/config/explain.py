"""Turns pydantic's errors into sentences: the key, what was found, what is expected."""

import re
from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mindrl.config.base import Section
from mindrl.config.names import keys, nearest_key


class BrokenRules(ValueError):
    """Every rule between keys that a configuration breaks, one sentence each."""

    def __init__(self, sentences: Sequence[str]):
        super().__init__("; ".join(sentences))
        self.sentences = tuple(sentences)


def explain(error: ValidationError, section: type[Section]) -> list[str]:
    """One sentence a problem, each starting with the dotted key it is about."""
    return [sentence for details in error.errors() for sentence in _sentences(details, section)]


def _sentences(details: ErrorDetails, section: type[Section]) -> list[str]:
    key = dotted(details["loc"])
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, BrokenRules):
        return list(cause.sentences)
    if details["type"] == "extra_forbidden":
        return [f"{key}: unknown key{_hint(key, section)}"]
    if details["type"] == "missing":
        return [f"{key}: missing; it has no default"]
    if details["type"] == "too_short":
        # pydantic also says this of a list whose items are wrong, which are reported themselves
        return [] if details["input"] else [f"{key}: empty; it needs at least one entry"]
    expected = re.sub(r"^(Value error, |Input should be |Input should )", "", details["msg"])
    if details["type"] in ("model_type", "model_attributes_type"):
        expected = "a section with keys"
    return [f"{key or 'the file'}: found {_show(details['input'])}, expected {expected}"]


def dotted(location: Sequence[str | int]) -> str:
    """`("reward", "functions", 0, "name")` as `reward.functions[0].name`, the form that overrides use."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(
        "."
    )


def _hint(key: str, section: type[Section]) -> str:
    parent = re.sub(r"\[\d+\]", "[]", key).rpartition(".")[0]
    near = nearest_key(section, re.sub(r"\[\d+\]", "[]", key))
    if near is not None:
        same_parent = near.rpartition(".")[0] == parent
        spelled = f"{key.rpartition('.')[0]}.{near.rpartition('.')[2]}" if same_parent and parent else near
        return f"; did you mean {spelled}?"
    siblings = [k.rpartition(".")[2] for k in keys(section) if k.rpartition(".")[0] == parent]
    return f"; {parent or 'the file'} has {', '.join(siblings)}"


def _show(value: object) -> str:
    text = repr(value)
    return f"{text[:77]}..." if len(text) > 80 else text
