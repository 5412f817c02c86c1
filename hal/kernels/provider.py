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


@dataclass(frozen=True, slots=True)
class Provider:
    """A kernel for one op. `function` is importable by name, so that a `Selection` can travel between processes."""

    op: str
    name: str
    function: Callable[..., Any]
    """Same parameters, meaning and results as the op's reference."""
    why_not: Check = always
    """None if these facts can be served on this accelerator, else the reason. Must not run the kernel."""
