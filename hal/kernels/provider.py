"""What a provider is: one op's kernel, and the reasons why it can't serve."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hal.accelerator import Accelerator
from hal.kernels.facts import KernelFacts

Check = Callable[[Accelerator, KernelFacts], str | None]


def always(accelerator: Accelerator, facts: KernelFacts) -> None:
    """For kernels that serve everything their contract allows."""
    return


class NotInstalled(str):
    """A reason that `pip install` takes away; `python -m hal` puts these together under "better kernels"."""

    __slots__ = ()

    @classmethod
    def of(cls, requirement: str, gains: str = "") -> "NotInstalled":
        """The reason, where `requirement` (such as `liger-kernel>=0.6`) is what pip is to be given.

        Say so only where the device is the right one, else it is no gain."""
        return cls(f"{requirement} is not installed; pip install {requirement!r}{gains and f' ({gains})'}")


@dataclass(frozen=True, slots=True)
class Provider:
    """A kernel for one op. `function` is importable by name, so that a `Selection` can travel between processes."""

    op: str
    name: str
    function: Callable[..., Any]
    """Same parameters, meaning and results as the op's reference."""
    why_not: Check = always
    """None if these facts can be served on this accelerator, else the reason. Must not run the kernel."""
