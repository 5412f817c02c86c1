"""Root mean square normalization."""

from typing import Any

import torch
from megatron.core.transformer import TransformerConfig

from hal import Selection


class RmsNorm(torch.nn.Module):
    """RMSNorm. Megatron's own for no particular device refuses sequence parallelism."""

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float, selection: Selection, **_: Any
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.empty(hidden_size, dtype=config.params_dtype))
        # Each tensor-parallel rank sees its part of the sequence only: Megatron adds such gradients up.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        self._kernel = selection.rms_norm

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[..., hidden_size] -> the same shape and type."""
        return self._kernel(hidden_states, self.weight, self.eps)
