"""Make this process ready to train on a device."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType

import torch

from hal.accelerator import Accelerator
from hal.redirect import Redirect, redirect


@dataclass(frozen=True, slots=True)
class Preparation:
    """What `prepare_process` did."""

    environment: Mapping[str, str]
    """Variables that it set; those that were set before are left as they were."""
    redirect: Redirect


def prepare_process(
    accelerator: Accelerator,
    modules: Iterable[ModuleType] = (),
    *,
    processes_per_node: int | None = None,
) -> Preparation:
    """Set the device's environment defaults, and let `modules` that say `torch.cuda` reach the device.

    Call it before the first tensor and the process group: device libraries read their variables when they start. What
    torch itself read when it was imported, the number of threads, is set in torch too. A process that is started for
    the purpose is better given `Accelerator.environment_defaults` as its environment. Raises `RedirectError`."""
    defaults = accelerator.environment_defaults(processes_per_node)
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    if "OMP_NUM_THREADS" in added:
        torch.set_num_threads(int(added["OMP_NUM_THREADS"]))
    return Preparation(added, redirect(modules, accelerator))
