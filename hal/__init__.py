"""Everything that knows a device. `python -m hal` shows what it finds here.

    accelerator = hal.choose("auto")             # how do I talk to the device?
    kernels = hal.select(accelerator, facts)     # which kernel computes this?
    hal.redirect(modules, accelerator)           # let modules that say torch.cuda reach it

Knows torch, and nothing that is built on it.
"""

from hal import communication
from hal.accelerator import Accelerator, EventLike, Memory, StreamLike
from hal.discovery import Candidate, Choice, candidates, choose, decide
from hal.errors import (
    CommunicationError,
    HalError,
    KernelUnavailableError,
    RedirectError,
    UnavailableError,
)
from hal.kernels.facts import KernelFacts
from hal.kernels.provider import Provider
from hal.kernels.selection import Selection, select
from hal.process import Preparation, prepare_process
from hal.redirect import Redirect, redirect

__all__ = [
    "Accelerator",
    "Candidate",
    "Choice",
    "CommunicationError",
    "EventLike",
    "HalError",
    "KernelFacts",
    "KernelUnavailableError",
    "Memory",
    "Preparation",
    "Provider",
    "Redirect",
    "RedirectError",
    "Selection",
    "StreamLike",
    "UnavailableError",
    "candidates",
    "choose",
    "communication",
    "decide",
    "prepare_process",
    "redirect",
    "select",
]
