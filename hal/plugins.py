"""What installed packages announce by entry points. Their faults are reasons to quote, not our crashes."""

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

FAULTS = (Exception, SystemExit)
"""Whatever the code of another package may raise, short of what the user or the system asks for."""


@dataclass(frozen=True, slots=True)
class PlugIn:
    """One entry point, loaded or with the reason why not."""

    name: str
    origin: str
    """For messages: `package (module:object)`."""
    loaded: Any
    reason: str | None


def announced(group: str) -> list[PlugIn]:
    """Everything that installed packages announce in this group, in the order of the import path."""
    return [_load(entry) for entry in entry_points(group=group)]


def fault(error: BaseException) -> str:
    """What another package's code raised, in one line."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _load(entry: EntryPoint) -> PlugIn:
    origin = f"{entry.dist.name if entry.dist else 'a package'} ({entry.value})"
    try:
        return PlugIn(entry.name, origin, entry.load(), None)
    except FAULTS as error:
        return PlugIn(entry.name, origin, None, f"{origin} does not load: {fault(error)}")
