"""Keys of the schema, and the one nearest to a key that was meant."""

import difflib
from collections.abc import Collection, Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from mindrl.config.base import Section
from mindrl.errors import RequestError


def inner_section(field: FieldInfo) -> tuple[type[Section], str] | None:
    """Section behind a field and how its keys continue: `.` for a section (or null), `[].` for a tuple of them."""
    inside = "[]." if get_origin(field.annotation) is tuple else "."
    for candidate, joint in ((field.annotation, "."), *((a, inside) for a in get_args(field.annotation))):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate, joint
    return None


def keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a section, inner sections first named, then opened; list items appear as `[]`."""
    for name, field in section.model_fields.items():
        yield prefix + name
        if inner := inner_section(field):
            yield from keys(inner[0], f"{prefix}{name}{inner[1]}")


def nearest_key(section: type[Section], key: str) -> str | None:
    """The key of the schema that `key` was most likely meant to be, or None when nothing is near.

    A similar name in the same section wins, then the same name in another section, then the most similar key."""
    known = list(keys(section))
    parent, _, name = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == parent}
    if near := nearest(name, siblings, cutoff=0.7):
        return siblings[near]
    if namesakes := [k for k in known if k.rpartition(".")[2] == name]:
        return max(namesakes, key=lambda k: difflib.SequenceMatcher(None, k, key).ratio())
    return siblings.get(nearest(name, siblings, cutoff=0.5) or "") or nearest(key, known, cutoff=0.8)


def nearest(name: str, known: Collection[str], cutoff: float = 0.6) -> str | None:
    """The most similar of the known names, or None when none is similar enough (0: anything, 1: equal).

    Letters in another order go first: `to_pk` is as similar to `top_p`, but it is a swapped `top_k`."""
    similar = difflib.get_close_matches(name, known, n=3, cutoff=cutoff)
    return min(similar, key=lambda other: sorted(other) != sorted(name), default=None)


def check_pass_through(
    key: str, given: Mapping[str, object], known: Mapping[str, Any], refused: Mapping[str, str], receiver: str
) -> None:
    """Check names and types in a section that is handed to another library as it is.

    `key` is the section (`rollout.engine_args`), `known` what `receiver` takes and of which type, `refused` those that
    can't be given here, each with the reason. Raises `RequestError` with one line a name."""
    problems: list[str] = []
    for name, value in given.items():
        if name in refused:
            problems.append(f"{key}.{name}: can't be set here: {refused[name]}")
        elif name not in known:
            near = nearest(name, known)
            hint = f"; did you mean {key}.{near}?" if near else ""
            problems.append(f"{key}.{name}: {receiver} has no such field{hint}")
        elif not _is_a(value, known[name]):
            problems.append(f"{key}.{name}: found {value!r}, expected {_spelled(known[name])}")
    if problems:
        raise RequestError("\n".join(problems))


def _is_a(value: object, annotation: Any) -> bool:
    """Whether a value can be meant where another library wants this type; types of its own are its to check."""
    try:
        TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError:
        return False
    except PydanticUserError:
        return True
    return True


def _spelled(annotation: Any) -> str:
    """`Optional[Literal['full', 'selective']]` as `'full' or 'selective' or null`."""
    if annotation is NoneType:
        return "null"
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return " or ".join(map(repr, arguments))
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(dict.fromkeys(_spelled(each) for each in arguments))
    if get_origin(annotation) in (list, tuple, set):
        return "a list"
    return TYPE_NAMES.get(annotation, str(annotation))


TYPE_NAMES: dict[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a mapping",
}
