"""Which accelerators there are: the built-in ones and those that installed packages announce.

A package adds a device by an entry point in the group `hal.accelerators`: its name is the accelerator's, and it
loads to a callable that returns an `Accelerator` or raises `UnavailableError` with the reason.
"""

import difflib
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hal.accelerator import Accelerator
from hal.devices import cpu, cuda, npu
from hal.errors import UnavailableError
from hal.plugins import FAULTS, PlugIn, announced, fault

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
    unexpected: bool = False
    """It can't be used although the machine shows such a device, or somebody installed it on purpose."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The accelerator that was asked for, or that `auto` found."""

    accelerator: Accelerator
    asked: str
    passed_over: tuple[Candidate, ...] = ()
    """With `auto`: those that would have come first, with their reasons."""

    def __str__(self) -> str:
        lines = [f"accelerator {self.asked} is {self.accelerator.name}"]
        return "\n".join(lines + [f"  not {other.name}: {other.reason}" for other in self.passed_over])


def candidates() -> tuple[Candidate, ...]:
    """All of them, in the order in which `auto` tries them."""
    plug_ins: dict[str, list[PlugIn]] = {}
    for plug_in in announced(ENTRY_POINT_GROUP):
        plug_ins.setdefault(plug_in.name, []).append(plug_in)
    added = [_added(name, same_name) for name, same_name in plug_ins.items()]
    return (*added, *(_look(name, finder) for name, finder in _BUILT_IN.items()))


def choose(name: str = "auto") -> Accelerator:
    """The accelerator of `decide`."""
    return decide(name).accelerator


def decide(name: str = "auto") -> Choice:
    """The accelerator called `name`, or with `auto` the first usable one, and why not those before it.

    What `auto` chose is logged once; as a warning if it passes over a device that the machine has, or a package that
    was installed for one. Raises `UnavailableError` with every candidate's reason."""
    found = candidates()
    for place, candidate in enumerate(found):
        if candidate.accelerator is not None and name in ("auto", candidate.name):
            choice = Choice(candidate.accelerator, name, found[:place] if name == "auto" else ())
            if name == "auto":
                unexpected = any(other.unexpected for other in choice.passed_over)
                _log_once(logging.WARNING if unexpected else logging.INFO, str(choice))
            return choice
    raise UnavailableError(_why_not(name, found))


@functools.cache
def _log_once(level: int, message: str) -> None:
    _log.log(level, message)


def _added(name: str, plug_ins: list[PlugIn]) -> Candidate:
    """What packages announce under one name."""
    origins = " and ".join(plug_in.origin for plug_in in plug_ins)
    if name in _BUILT_IN:
        reason = "the name is taken; the package has to announce another one"
        return Candidate(f"{name} of {origins}", None, reason, unexpected=True)
    if len(plug_ins) > 1:
        reason = f"{origins} announce the same name; uninstall all but one of them"
        return Candidate(name, None, reason, unexpected=True)
    (plug_in,) = plug_ins
    if plug_in.reason is not None:
        return Candidate(name, None, plug_in.reason, unexpected=True)
    return _look(name, plug_in.loaded, origin=plug_in.origin)


def _look(name: str, finder: Finder, origin: str = "hal") -> Candidate:
    try:
        found: Any = finder()
    except UnavailableError as error:
        return Candidate(name, None, str(error), error.hardware)
    except FAULTS as error:
        return Candidate(name, None, f"looking for it, {origin} raised {fault(error)}", unexpected=True)
    if not isinstance(found, Accelerator):
        reason = f"{origin} returned {found!r}, which is not a hal.Accelerator"
        return Candidate(name, None, reason, unexpected=True)
    missing = [name for name in Accelerator.__annotations__ if not hasattr(found, name)]
    if missing:
        reason = f"{origin} returned an accelerator without {', '.join(missing)}"
        return Candidate(name, None, reason, unexpected=True)
    if found.name != name:
        reason = (
            f"{origin} announces it as {name!r}, but it calls itself {found.name!r}; the two must be equal"
        )
        return Candidate(name, None, reason, unexpected=True)
    return Candidate(name, found, None)


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
