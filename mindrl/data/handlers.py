"""Handlers: from a row of a raw data set to a question and its answer.

A handler is a function of the row and the names of its columns. It returns a `Question`, or the reason why the row
is left out, one of `DROP_REASONS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mindrl.config.base import Section
from mindrl.config.names import nearest
from mindrl.errors import RequestError

DropReason = Literal["bad_row", "empty_prompt", "no_answer", "too_long"]
DROP_REASONS: tuple[DropReason, ...] = ("bad_row", "empty_prompt", "no_answer", "too_long")
"""The row is not an object, or a mapped column is missing from it or holds no text or number; the question is
empty; there is no answer to compare with; the prompt has more tokens than `seq_length`."""


class MapKeys(Section):
    """Which column holds what; an empty name means there is none."""

    prompt: str
    """The question."""
    query: str = ""
    """A continuation of the question, put on a line of its own."""
    response: str
    """The answer, or a solution that the handler finds the answer in."""
    system: str = ""
    """The system message."""

    def columns(self) -> tuple[str, ...]:
        """The columns that are named."""
        return tuple(name for name in (self.prompt, self.query, self.response, self.system) if name)


@dataclass(frozen=True, slots=True)
class Question:
    """What a handler makes of a row."""

    prompt: str
    system: str
    ground_truth: str


Handler = Callable[[Mapping[str, Any], MapKeys], "Question | DropReason"]


def generic(row: Mapping[str, Any], keys: MapKeys) -> Question | DropReason:
    """The columns as they are."""
    texts = [_text(row, name) for name in (keys.prompt, keys.query, keys.system, keys.response)]
    prompt, query, system, answer = texts
    if prompt is None or query is None or system is None or answer is None:
        return "bad_row"
    if not prompt.strip():
        return "empty_prompt"
    if not answer.strip():
        return "no_answer"
    return Question(f"{prompt}\n{query}" if query else prompt, system, answer.strip())


def gsm8k(row: Mapping[str, Any], keys: MapKeys) -> Question | DropReason:
    """GSM8K's solutions, which end in `#### 1,234`: the answer is `1234`."""
    question = generic(row, keys)
    if not isinstance(question, Question):
        return question
    _, mark, answer = question.ground_truth.rpartition("####")
    number = answer.strip().replace(",", "")
    return Question(question.prompt, question.system, number) if mark and number else "no_answer"


HANDLERS: dict[str, Handler] = {"generic": generic, "gsm8k": gsm8k}


def find_handler(name: str) -> Handler:
    """The handler of that name; `RequestError` if there is none."""
    if name not in HANDLERS:
        near = nearest(name, HANDLERS)
        hint = f"did you mean {near}? " if near else ""
        raise RequestError(f"handler_name {name!r}: no such handler; {hint}Known: {', '.join(HANDLERS)}")
    return HANDLERS[name]


def _text(row: Mapping[str, Any], column: str) -> str | None:
    """The column's text; empty where no column is mapped or the row has null there; None where it can't be one."""
    if not column:
        return ""
    value = row.get(column, ...)
    if value is None:
        return ""
    return str(value) if isinstance(value, str | int | float) else None
