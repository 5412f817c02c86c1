"""Turns pydantic's errors into sentences: the key, what was found, what is expected."""

import re
from collections.abc import Mapping, Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mindrl.config.base import Section
from mindrl.config.established import SECTIONS, answers
from mindrl.config.names import keys, nearest, nearest_key

EXPECTED = {
    "model_type": "a section with {keys}",
    "model_attributes_type": "a section with {keys}",
    "dict_type": "a section with {keys}",
    "tuple_type": "a list{of_sections}",
    "path_type": "a path",
    "string_type": "text",
    "int_parsing": "a valid integer",
    "int_parsing_size": "a smaller number",
    "int_from_float": "a valid integer",
    "float_parsing": "a valid number",
    "float_type": "a valid number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
}
"""Words for what pydantic calls by names of Python's."""
YAML_WORDS = {"None": "null", "True": "true", "False": "false"}


class BrokenRules(ValueError):
    """Every rule between keys that a configuration breaks, one sentence each."""

    def __init__(self, sentences: Sequence[str]):
        super().__init__("; ".join(sentences))
        self.sentences = tuple(sentences)


def explain(error: ValidationError, section: type[Section]) -> list[str]:
    """One sentence a problem, each starting with the dotted key it is about."""
    return [sentence for details in error.errors() for sentence in _sentences(details, section)]


def not_this_kind(values: Mapping[str, object], section: type[Section]) -> str | None:
    """One sentence for a file that has nothing to do with the section, in place of one about each of its keys."""
    wanted = ", ".join(section.model_fields)
    if not values:
        return f"holds nothing; its keys are {wanted}"
    known = (*section.model_fields, *SECTIONS)  # another system's file is answered key by key
    if any(key in known or nearest(str(key), section.model_fields) for key in values):
        return None
    return f"has {', '.join(map(str, values))}, and the keys of this command's file are {wanted}; name another file"


def _sentences(details: ErrorDetails, section: type[Section]) -> list[str]:
    key = dotted(details["loc"])
    kind, found = details["type"], details["input"]
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, BrokenRules):
        return list(cause.sentences)
    if kind == "extra_forbidden":
        return answers(key, found, set(keys(section))) or [f"{key}: unknown key{_hint(key, section)}"]
    if kind == "missing":
        return [f"{key}: missing; it has no default"]
    if details["loc"] and details["loc"][-1] == "[key]":
        return [
            f"{dotted(details['loc'][:-2])}: found the key {found!r}, and {details['loc'][-3]} wants names of variables"
        ]
    if kind == "invalid_key":
        return [f"{dotted(details['loc'][:-1])}: found the key {found!r}, and keys are words"]
    if kind == "too_short":
        # pydantic also says this of a list whose items are wrong, which are reported themselves
        return [] if found else [f"{key}: empty; it needs at least one entry"]
    said = re.sub(r"^(Value error, |Input should be |Input should )", "", details["msg"])
    inner = _children(key, section)
    of_sections = f" of sections with {inner}" if inner else ""
    words = {"keys": inner or "keys", "of_sections": of_sections, **_limits(details)}
    expected = EXPECTED[kind].format(**words) if kind in EXPECTED else said
    return [f"{key or 'the file'}: found {_show(found)}, expected {expected}"]


def _limits(details: ErrorDetails) -> dict[str, str]:
    """Bounds that pydantic names, as they read in a sentence."""
    given = details.get("ctx", {})
    return {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in given.items()}


def _children(key: str, section: type[Section]) -> str:
    """Names of the keys right below a section, or below each item of a list of them."""
    place = re.sub(r"\[\d+\]", "[]", key)
    below = [
        known.removeprefix(place).removeprefix("[]") for known in keys(section) if known.startswith(place)
    ]
    return ", ".join(name[1:] for name in below if re.fullmatch(r"\.\w+", name))


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
    text = YAML_WORDS.get(repr(value), repr(value))
    return f"{text[:77]}..." if len(text) > 80 else text
