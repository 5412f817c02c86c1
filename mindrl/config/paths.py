"""Paths that mean the same in every process of a run."""

from pathlib import Path
from typing import Any, TypeVar, cast

from mindrl.config.base import Section

S = TypeVar("S", bound=Section)


def with_absolute_paths(section: S) -> S:
    """The section with its relative paths put behind the working directory: workers may run in another one."""
    return section.model_copy(update={name: _absolute(value) for name, value in section})


def _absolute(value: Any) -> Any:
    if isinstance(value, Path):
        return value.absolute()
    if isinstance(value, Section):
        return with_absolute_paths(value)
    if isinstance(value, tuple):
        return tuple(_absolute(item) for item in cast(tuple[Any, ...], value))
    return value
