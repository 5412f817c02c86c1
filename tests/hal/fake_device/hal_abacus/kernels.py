"""One kernel of the abacus' own; everything else it leaves to torch."""

import torch

from hal import Accelerator, KernelFacts, Provider


def swiglu(x: torch.Tensor) -> torch.Tensor:
    """By hand."""
    gate, up = x.float().chunk(2, dim=-1) if x.dtype != torch.float64 else x.chunk(2, dim=-1)
    return (gate / (1 + torch.exp(-gate)) * up).to(x.dtype)


def why_not(accelerator: Accelerator, facts: KernelFacts) -> str | None:
    return None if accelerator.name == "abacus" else f"runs on an abacus only, not on {accelerator.name}"


KERNELS = [Provider("swiglu", "by_hand", swiglu, why_not)]
