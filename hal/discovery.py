"""Which accelerators there are: the built-in ones and those that installed packages announce.

A package adds a device by an entry point in the group `hal.accelerators`: its name is the accelerator's, and it
loads to a callable that returns an `Accelerator` or raises `UnavailableError` with the reason.
"""

import difflib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points

from hal.accelerator import Accelerator
from hal.devices import cpu, cuda, npu
from hal.errors import UnavailableError

_log = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "hal.accelerators"

Finder = Callable[[], Accelerator]

# `auto` takes the first usable one: what somebody added on purpose, then vendors' devices, then the host.
_BUILT_IN: dict[str, Finder] = {"cuda": cuda.find, "npu": npu.find, "cpu": cpu.find}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An accelerator that was looked for: either it is there, or there is a reason."""

    name: str
    accelerator: Accelerator | None
    reason: str | None
    """Why it can't be used, and what to do; None if it can."""
    hardware: bool = False
    """It can't be used although the machine shows such a device."""


def candidates() -> tuple[Candidate, ...]:
    """All of them, in the order in which `auto` tries them."""
    found: list[Candidate] = []
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in _BUILT_IN or any(entry.name == other.name for other in found):
            reason = f"the name is taken; rename the entry point {entry.value} of group {ENTRY_POINT_GROUP}"
            found.append(Candidate(f"{entry.name} ({entry.value})", None, reason))
            continue
        try:
            finder: Finder = entry.load()
        except (ImportError, AttributeError, OSError, RuntimeError) as error:
            reason = f"its entry point {entry.value} does not load: {type(error).__name__}: {error}"
            found.append(Candidate(entry.name, None, reason))
            continue
        found.append(_look(entry.name, finder))
    return (*found, *(_look(name, finder) for name, finder in _BUILT_IN.items()))


def choose(name: str = "auto") -> Accelerator:
    """The accelerator called `name`, or with `auto` the first usable one.

    `auto` that passes over a device which the machine does have is logged as a warning. Raises `UnavailableError`
    with every candidate's reason."""
    found = candidates()
    for candidate in found:
        if candidate.accelerator is not None and name in ("auto", candidate.name):
            return candidate.accelerator
        if candidate.hardware and name == "auto":
            _log.warning("accelerator %s is passed over: %s", candidate.name, candidate.reason)
    raise UnavailableError(_why_not(name, found))


def _look(name: str, finder: Finder) -> Candidate:
    try:
        return Candidate(name, finder(), None)
    except UnavailableError as error:
        return Candidate(name, None, str(error), error.hardware)


def _why_not(name: str, found: tuple[Candidate, ...]) -> str:
    names = [candidate.name for candidate in found]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        because = "there is none of that name" + (f" (did you mean {near[0]!r}?)" if near else "")
    else:
        because = "it can't be used here"
    lines = [f"accelerator {name!r} was asked for, but {because}:"]
    lines += [f"  {candidate.name}: {candidate.reason or 'usable'}" for candidate in found]
    usable = [candidate.name for candidate in found if candidate.reason is None]
    lines.append(f"Ask for one of: {', '.join([*usable, 'auto'])}.")
    return "\n".join(lines)
