"""The reference page of the configuration, generated from the schema: `python -m mindrl.config.reference`."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mindrl.config import rules
from mindrl.config.base import Section
from mindrl.config.names import inner_section
from mindrl.config.schema import Config

HEAD = """\
# Configuration

Generated from the schema by `python -m mindrl.config.reference > docs/configuration.md`; change it there.

A run is one yaml file: `mindrl train CONFIG [key=value ...]`.

- `defaults: [base.yaml]` merges the file over others, relative to it. Mappings merge key by key, lists and values are
  replaced. `key=value` on the command line comes last; an item of a list is `reward.functions[0].weight=2`.
- `${oc.env:NAME,default}` reads an environment variable, `${other.key}` another key.
- Lengths are tokens. `trainer.global_batch_size` and `actor.mini_batch_size` count prompts, `micro_batch_size` counts
  samples on one device. Relative paths are relative to the working directory.
- An unknown key, a wrong type and a broken rule are all reported before anything starts, with exit code 2.
"""

TYPE_WORDS: dict[object, str] = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "true or false",
    Path: "path",
    Any: "anything",
}


def page() -> str:
    """The whole page, as markdown."""
    parts = [HEAD, *_sections(Config, ""), _rules()]
    return "\n".join(parts)


def _sections(section: type[Section], prefix: str) -> Iterator[str]:
    """A table for the section's own keys, then the sections inside it."""
    inner = {name: found for name, field in section.model_fields.items() if (found := inner_section(field))}
    rows = [_row(n, f) for n, f in section.model_fields.items() if n not in inner or inner[n][1] == "[]."]
    if prefix:
        yield f"## `{prefix.rstrip('.')}`\n\n{_one_line(section.__doc__)}\n"
    if rows:
        yield "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows, ""])
    for name, (kind, joint) in inner.items():
        yield from _sections(kind, f"{prefix}{name}{joint}")


def _row(name: str, field: FieldInfo) -> str:
    words = _type_words(field.annotation, field.metadata)
    return f"| `{name}` | {words} | {_default(field)} | {_one_line(field.description)} |"


def _type_words(annotation: Any, metadata: list[Any]) -> str:
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _type_words(inner, [*metadata, *more])
    return _plain_words(annotation) + "".join(_bound(limit) for limit in metadata)


def _plain_words(annotation: Any) -> str:
    arguments = get_args(annotation)
    if annotation in TYPE_WORDS:
        return TYPE_WORDS[annotation]
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if get_origin(annotation) is dict:
        return f"mapping of names to {_type_words(arguments[1], [])}"
    if get_origin(annotation) is tuple:
        if Ellipsis not in arguments:
            return f"{len(arguments)} times {_type_words(arguments[0], [])}"
        return f"list of {_type_words(arguments[0], [])}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "sections, below"
    if NoneType in arguments:
        return " or ".join(_type_words(each, []) for each in arguments if each is not NoneType) + ", or null"
    raise TypeError(f"the reference page has no words for {annotation}; add them here")


def _bound(limit: Any) -> str:
    """A limit as it reads behind a type; settings without one (FieldInfo among them) add nothing."""
    if isinstance(limit, FieldInfo):
        return "".join(_bound(each) for each in limit.metadata)
    match limit:
        case Gt():
            return f" > {_number(limit.gt)}"
        case Ge():
            return f" ≥ {_number(limit.ge)}"
        case Lt():
            return f", < {_number(limit.lt)}"
        case Le():
            return f", ≤ {_number(limit.le)}"
        case MinLen():
            return f", at least {limit.min_length}"
        case _:
            return ""


def _number(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, bool) or value is None:
        return f"`{str(value).lower().replace('none', 'null')}`"
    if isinstance(value, tuple):
        return f"`{list(value)}`"  # pyright: ignore[reportUnknownArgumentType]
    return f"`{value}`"


def _rules() -> str:
    rows = [f"- {_one_line(check.__doc__)}" for check in rules.RULES]
    return "\n".join(["## Rules between keys", "", *rows, ""])


def _one_line(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").strip().replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
