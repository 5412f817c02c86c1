"""Inputs to try a kernel on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from hal.kernels.facts import KernelFacts

SMALL = KernelFacts(
    dtype=torch.float32, head_dim=8, num_heads=4, num_kv_heads=2, hidden_size=32, vocab_size=96
)
"""A model that every device multiplies in no time."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One call: positional tensors that gradients are wanted for (float ones), and keyword arguments."""

    name: str
    tensors: Sequence[torch.Tensor]
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    facts: KernelFacts = SMALL
    on_host: frozenset[str] = frozenset()
    """Options that are tensors on the host, whatever the device."""

    def to(self, device: torch.device, dtype: torch.dtype) -> "Sample":
        """The same call on a device, in a floating-point type, with the same strides."""
        return replace(
            self,
            tensors=[_moved(tensor, device, dtype) for tensor in self.tensors],
            options={
                key: value.to(device)
                if isinstance(value, torch.Tensor) and key not in self.on_host
                else value
                for key, value in self.options.items()
            },
            facts=replace(self.facts, dtype=dtype),
        )


def _moved(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """`Tensor.to` closes gaps between elements; a slice of a larger tensor shall stay one."""
    dtype = dtype if tensor.is_floating_point() else tensor.dtype
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device=device).copy_(tensor)


def normal(*shape: int, seed: int) -> torch.Tensor:
    """Standard normal numbers in float64 on the host, the same ones for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)
