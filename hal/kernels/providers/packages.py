"""Packages of kernels that may be installed or not: which versions serve, and the reason where one can't."""

import importlib
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from hal.accelerator import Accelerator
from hal.kernels.facts import KernelFacts
from hal.kernels.provider import NotInstalled


@dataclass(frozen=True, slots=True)
class CudaPackage:
    """Kernels for NVIDIA GPUs."""

    distribution: str
    """As pip knows it."""
    module: str
    """What has the kernels. Imported only where they are wanted."""
    at_least: str
    below: str
    dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16, torch.float32)
    capability: tuple[int, int] = (0, 0)
    """Of the GPU, at least."""
    extra: str = ""
    """Of the distribution, to be installed too."""

    def why_not(self, accelerator: Accelerator, facts: KernelFacts, beyond: str | None = None) -> str | None:
        """The reason, of the device, the type or the package; `beyond` is the kernel's own. An installation is asked
        for only where nothing else is in the way."""
        if accelerator.device_type != "cuda":
            return f"runs on CUDA only, and this is {accelerator.name}"
        if facts.dtype not in self.dtypes:
            return f"takes {', '.join(map(str, self.dtypes))}, not {facts.dtype}"
        return beyond or self._why_not_here()

    def load(self) -> Any:
        """The module with the kernels."""
        return importlib.import_module(self.module)

    def _why_not_here(self) -> str | None:
        requirement = f"{self.distribution}{self.extra}>={self.at_least},<{self.below}"
        try:
            found = version(self.distribution)
        except PackageNotFoundError:
            return NotInstalled.of(requirement)
        if not _numbers(self.at_least) <= _numbers(found) < _numbers(self.below):
            return f"{self.distribution} {found} is installed, and {requirement} is wanted"
        try:
            self.load()
        except (ImportError, OSError, RuntimeError) as error:
            return (
                f"{self.distribution} {found} is installed but does not load "
                f"({type(error).__name__}: {error}); match it to torch {torch.__version__}"
            )
        if torch.cuda.get_device_capability() < self.capability:
            return f"needs compute capability {'.'.join(map(str, self.capability))}"
        return None


def _numbers(text: str) -> tuple[int, ...]:
    """Of a version, as far as they go: 2.8.3.post2 is (2, 8, 3)."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, found.group().split("."))) if found else ()
