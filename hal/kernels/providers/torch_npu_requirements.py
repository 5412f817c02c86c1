"""What every provider of torch_npu asks first: an Ascend device, the operators, and a type that they take.

torch_npu registers its operators under `torch.ops.npu`; `torch_npu.npu_rms_norm` and the others are the same objects.
What their documents allow is said where it is checked; `tests/npu` holds the list of all operators that are called.
"""

from importlib.metadata import PackageNotFoundError, version

import torch

from hal.accelerator import Accelerator
from hal.kernels.facts import KernelFacts

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
"""What all of the operators take."""


def why_not(accelerator: Accelerator, facts: KernelFacts, *operators: str) -> str | None:
    """The reason, if one of the three is missing."""
    if accelerator.device_type != "npu":
        return f"runs on Ascend NPUs only, and this is {accelerator.name}"
    lacking = [name for name in operators if not hasattr(torch.ops.npu, name)]
    if lacking:
        return f"torch-npu {_version()} has no {', '.join(lacking)}; torch-npu 2.13 has"
    if facts.dtype not in DTYPES:
        return f"takes {', '.join(map(str, DTYPES))}, not {facts.dtype}"
    return None


def _version() -> str:
    try:
        return version("torch-npu")
    except PackageNotFoundError:
        return "(not installed)"
