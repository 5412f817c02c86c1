"""Normalization and gated activation by Liger-Kernel's Triton kernels (Hsu et al. 2024, arXiv:2410.10989).

Not run by us so far: no GPU. Calls were checked against the sources of liger-kernel 0.5.2 and 0.8.5. Its rotary
embedding is left out: it turns query and key together, in place, and gives the angles no gradient.
"""

import torch

from hal.accelerator import Accelerator
from hal.kernels.facts import KernelFacts
from hal.kernels.provider import Provider
from hal.kernels.providers.packages import CudaPackage

NORM = CudaPackage("liger-kernel", "liger_kernel.ops.rms_norm", at_least="0.5.2", below="1")
SWIGLU = CudaPackage("liger-kernel", "liger_kernel.ops.swiglu", at_least="0.5.2", below="1")

_WIDEST = 65536
"""Features that one block of threads holds."""


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Wide, and rounded once, as the casting mode called gemma does it. Its gradient shall not overwrite what comes
    in: that may belong to a residual connection too."""
    offset, casting_mode, in_place = 0.0, "gemma", False
    return NORM.load().LigerRMSNormFunction.apply(x, weight, eps, offset, casting_mode, in_place)


def _why_not_rms_norm(accelerator: Accelerator, facts: KernelFacts) -> str | None:
    wide = facts.hidden_size > _WIDEST
    beyond = f"normalizes up to {_WIDEST} features, not {facts.hidden_size}" if wide else None
    return NORM.why_not(accelerator, facts, beyond)


def swiglu(x: torch.Tensor) -> torch.Tensor:
    """The kernel writes gradients over the two halves that it is given, so that these have to be copies."""
    gate, up = (half.clone(memory_format=torch.contiguous_format) for half in x.chunk(2, dim=-1))
    return SWIGLU.load().LigerSiLUMulFunction.apply(gate, up)


PROVIDERS = (
    Provider("rms_norm", "liger", rms_norm, _why_not_rms_norm),
    Provider("swiglu", "liger", swiglu, SWIGLU.why_not),
)
