"""Answers in boxes: what `\\boxed{...}` holds in a response or in a published solution."""

import re

BOX = "\\boxed{"

_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_ANY_BOX = re.compile(r"\\(?:boxed|fbox)(?:\s*\{|\s+(?=[^\s{]))")
_BARE = re.compile(r"(?:[^\s$.,]|[.,](?=\d))+")


def last_boxed(text: str) -> str | None:
    """What stands in the last `\\boxed{...}`, braces inside it balanced; None where there is none or it never ends."""
    start = text.rfind(BOX)
    return None if start < 0 else _to_closing_brace(text, start + len(BOX))


def boxed_answer(solution: str) -> str | None:
    """`last_boxed` for published solutions, which also write `\\fbox{4}` and `\\boxed 4`."""
    boxes = list(_ANY_BOX.finditer(solution))
    if not boxes:
        return None
    start = boxes[-1].end()
    if boxes[-1].group().endswith("{"):
        return _to_closing_brace(solution, start)
    bare = _BARE.match(solution, start)
    return bare.group() if bare else None


def _to_closing_brace(text: str, start: int) -> str | None:
    depth = 0
    for match in _BRACE.finditer(text, start):
        if match.group() == "{":
            depth += 1
        elif match.group() == "}":
            if depth == 0:
                return text[start : match.start()]
            depth -= 1
    return None
