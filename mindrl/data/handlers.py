"""Handlers: from a row of a raw data set to a question and its answer.

A handler is a function of the row and the places of its columns. It returns a `Question`, or the reason why the row
is left out, one of `DROP_REASONS`.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

from mindrl.boxed import boxed_answer
from mindrl.config.base import Section
from mindrl.config.functions import find_function
from mindrl.data.columns import MISSING, find_value

DropReason = Literal["bad_json", "bad_text", "bad_row", "too_large", "empty_prompt", "no_answer", "too_long"]
DROP_REASONS: tuple[DropReason, ...] = get_args(DropReason)
DROP_MEANINGS: Mapping[DropReason, str] = {
    "bad_json": "is not valid JSON",
    "bad_text": "holds bytes that are not UTF-8, or half a character",
    "bad_row": "is no object, lacks a mapped column, or has in it what the handler can't use",
    "too_large": "is larger than max_row_bytes",
    "empty_prompt": "has an empty question",
    "no_answer": "has no answer to compare with",
    "too_long": "gives a prompt of more than seq_length tokens",
}
"""What the row does or has."""


class MapKeys(Section):
    """Which column holds what; an empty name means there is none.

    A name may be a path, `reward_model.ground_truth` or `0.value`, or alternatives, `label|answer`."""

    prompt: str
    """The question: text, or a list of chat messages that ends with the question."""
    query: str = ""
    """A continuation of the question, put on a line of its own."""
    response: str
    """The answer, or a solution that the handler finds the answer in."""
    system: str = ""
    """The system message."""

    def places(self) -> tuple[str, ...]:
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
    asked = _question(row, keys.prompt)
    query, system, answer = (_text(row, place) for place in (keys.query, keys.system, keys.response))
    if asked is None or query is None or system is None or answer is None:
        return "bad_row"
    prompt, own_system = asked
    if not prompt.strip():
        return "empty_prompt"
    if not answer.strip():
        return "no_answer"
    return Question(f"{prompt}\n{query}" if query else prompt, system or own_system, answer.strip())


def gsm8k(row: Mapping[str, Any], keys: MapKeys) -> Question | DropReason:
    """GSM8K's solutions, which end in `#### 1,234`: the answer is `1234`."""
    question = generic(row, keys)
    if not isinstance(question, Question):
        return question
    _, mark, answer = question.ground_truth.rpartition("####")
    number = answer.strip().replace(",", "")
    return replace(question, ground_truth=number) if mark and number else "no_answer"


def math_lighteval(row: Mapping[str, Any], keys: MapKeys) -> Question | DropReason:
    """MATH's solutions: the answer is what the last box holds."""
    question = generic(row, keys)
    if not isinstance(question, Question):
        return question
    answer = (boxed_answer(question.ground_truth) or "").strip()
    return replace(question, ground_truth=answer) if answer else "no_answer"


_DAPO_OPENING = re.compile(
    r"\s*Solve the following math problem step by step\.\s+The last line of your response should be of the form "
    r"Answer:.{1,60}?is the answer to the problem\.\s*",
    re.DOTALL,
)
_DAPO_CLOSING = re.compile(r"\s*Remember to put your answer on its own line after \"Answer:\"\.\s*\Z")


def dapo(row: Mapping[str, Any], keys: MapKeys) -> Question | DropReason:
    """DAPO-Math: the problem without the instruction around it, which asks for a line `Answer: ...` and no box.

    The template says how to answer, as for every other set, so that the reward finds what it looks for."""
    question = generic(row, keys)
    if not isinstance(question, Question):
        return question
    opening = _DAPO_OPENING.match(question.prompt)
    problem = _DAPO_CLOSING.sub("", question.prompt[opening.end() if opening else 0 :])
    return replace(question, prompt=problem) if problem else "empty_prompt"


def aime(row: Mapping[str, Any], keys: MapKeys) -> Question | DropReason:
    """AIME: answers are integers from 0 to 999, written without leading zeros (`033` is `33`).

    A problem that comes in DAPO's instruction is taken out of it."""
    question = dapo(row, keys)
    if not isinstance(question, Question):
        return question
    number = re.fullmatch(r"0*(\d{1,3})", question.ground_truth)
    return replace(question, ground_truth=number[1]) if number else "no_answer"


HANDLERS = {name: f"{__name__}:{name}" for name in ("generic", "gsm8k", "math_lighteval", "dapo", "aime")}
"""Name -> path."""


def find_handler(name: str) -> Handler:
    """The handler of that name or path; `RequestError` if there is none."""
    result = "mindrl.data.handlers.Question, or a reason of DROP_REASONS"
    return cast(Handler, find_function("handler_name", name, HANDLERS, ("row", "map_keys"), result))


def _question(row: Mapping[str, Any], place: str) -> tuple[str, str] | None:
    """Question and system message of a text or of chat messages; None where there is neither."""
    value = find_value(row, place)
    if not isinstance(value, list):
        text = _text(row, place)
        return None if text is None else (text, "")
    turns: dict[str, list[str]] = {"system": [], "user": []}
    for message in value:
        role, content = _message(message)
        if role not in turns or not isinstance(content, str):
            return None  # a template has one turn; what the assistant said before has no place in it
        turns[role].append(content)
    return ("\n".join(turns["user"]), "\n".join(turns["system"])) if len(turns["user"]) <= 1 else None


def _message(message: Any) -> tuple[Any, Any]:
    """Role and content in the two usual spellings."""
    if not isinstance(message, Mapping):
        return None, None
    role = message.get("role", message.get("from"))
    return "user" if role == "human" else role, message.get("content", message.get("value"))


def _text(row: Mapping[str, Any], place: str) -> str | None:
    """The text there; empty where no column is mapped or the row has null or NaN there; None where it can't be one."""
    value = find_value(row, place) if place else None
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return None if value is MISSING or not isinstance(value, str | int | float) else str(value)
