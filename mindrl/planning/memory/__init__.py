"""How much memory a run takes on a device, part by part and phase by phase, before it starts. Imports no torch.

Formulae and what they were measured on: docs/planning.md; `benchmarks/memory.py` measures them again.
"""

from mindrl.planning.memory.estimate import MemoryEstimate, MemoryPart, estimate_memory

__all__ = ["MemoryEstimate", "MemoryPart", "estimate_memory"]
