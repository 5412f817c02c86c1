"""What a patch is, and putting one in place."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from typing import Any

from hal import Accelerator


@dataclass(frozen=True, slots=True)
class Patch:
    """One function of Megatron-core that is replaced as a whole."""

    module: str
    """Where it lives, such as `megatron.core.tensor_parallel.random`."""
    function: str
    """Its qualified name in there, such as `DistributedOptimizer._build_model_and_main_param_groups`."""
    why: str
    """What goes wrong without the patch."""
    until: str
    """When it can go."""
    make: Callable[[Accelerator], Any]
    """Builds the replacement for a device; a class or static method comes back wrapped as such."""

    def apply(self, accelerator: Accelerator) -> None:
        """Put the replacement in place, also where other modules imported the function by name."""
        owner = import_module(self.module)
        *path, name = self.function.split(".")
        holder = reduce(getattr, path, owner)
        original = vars(holder)[name]
        replacement = self.make(accelerator)
        setattr(holder, name, replacement)
        if path:
            return
        package = self.module.partition(".")[0] + "."
        for module in [module for key, module in sys.modules.items() if key.startswith(package)]:
            if vars(module).get(name) is original:
                setattr(module, name, replacement)
