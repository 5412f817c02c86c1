"""Where in a row something stands.

A place is the name of a column, `answer`, or a path into a nested one, `reward_model.ground_truth`, in which a number
counts the items of a list from 0. Alternatives are separated by `|`: the first that holds a value counts, so that one
yaml reads the layouts that a data set is published in.
"""

from collections.abc import Mapping, Sequence
from typing import Any

MISSING = object()
"""Answer for a place that is not in the row, as opposed to one that holds null."""


def find_value(row: Mapping[str, Any], places: str) -> Any:
    """The value at the first of the places that holds one; None where they hold null, `MISSING` where none exists."""
    found: Any = MISSING
    for place in places.split("|"):
        value = row[place] if place in row else _follow(row, place)
        if value is not MISSING and value is not None:
            return value
        if value is None:
            found = None
    return found


def _follow(row: Any, path: str) -> Any:
    value = row
    for step in path.split("."):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, Sequence) and not isinstance(value, str) and step.isdecimal():
            if int(step) >= len(value):
                return MISSING
            value = value[int(step)]
        else:
            return MISSING
    return value
