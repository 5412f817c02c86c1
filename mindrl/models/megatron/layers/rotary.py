"""Rotary embedding: Megatron hands out angles, the HAL's kernel takes their cosines and sines."""

from collections.abc import Callable

import torch
from megatron.core.models.common.embeddings import rope_utils

from hal import Selection
from hal.kernels.context_parallel import zigzag


def use_rotary_kernel(selection: Selection) -> None:
    """Put the HAL's rotary kernel behind Megatron's two hooks for fused rotary embedding, of dense rows and of packed
    sequences.

    The hooks are one per process. Call it before a TransformerConfig with `apply_rope_fusion` is made, which looks
    whether they are there."""
    current = rope_utils.fused_apply_rotary_pos_emb
    if isinstance(current, RotaryHook):
        if current.kernel is not selection.rotary:
            raise ValueError(
                f"another model of this process computes its rotary embedding with {current.kernel}, this one asks "
                f"for {selection.rotary}; actor and reference share one selection"
            )
        return
    rope_utils.fused_apply_rotary_pos_emb = RotaryHook(selection.rotary)
    rope_utils.fused_apply_rotary_pos_emb_thd = PackedRotaryHook(selection.rotary)


class RotaryHook:
    """`fused_apply_rotary_pos_emb` of Megatron."""

    def __init__(self, kernel: Callable[..., torch.Tensor]) -> None:
        self.kernel = kernel
        self._cos_sin = CosSin()

    def __call__(self, x: torch.Tensor, angles: torch.Tensor, interleaved: bool = False) -> torch.Tensor:
        """x [length, rows, heads, head_dim], angles [length, 1, 1, rotary_dim] -> the shape of x."""
        return self.kernel(x, *self._cos_sin(angles), interleaved=interleaved)


class PackedRotaryHook:
    """`fused_apply_rotary_pos_emb_thd` of Megatron, which does not say whether pairs are interleaved: they are halves,
    because Megatron refuses `rotary_interleaved` beside the hook of dense rows."""

    def __init__(self, kernel: Callable[..., torch.Tensor]) -> None:
        self.kernel = kernel
        self._cos_sin = CosSin()

    def __call__(
        self,
        x: torch.Tensor,
        cu_seqlens: torch.Tensor,
        angles: torch.Tensor,
        cp_size: int = 1,
        cp_rank: int = 0,
    ) -> torch.Tensor:
        """x [tokens of this rank, heads, head_dim], angles [longest, 1, 1, rotary_dim] -> the shape of x."""
        cos_sin = self._cos_sin(angles, cu_seqlens, cp_size, cp_rank)
        return self.kernel(x[:, None], *cos_sin)[:, 0]


class CosSin:
    """Cosines and sines of the angles that were asked for last: a model's layers ask for the same ones in turn.

    Angles come in halves, [a b c a b c]; `interleaved` turns them into those of neighbours, [a a b b c c]."""

    def __init__(self, *, interleaved: bool = False) -> None:
        self._interleaved = interleaved
        self._asked: tuple[torch.Tensor, torch.Tensor | None] | None = None
        self._answer: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(
        self,
        angles: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
        cp_size: int = 1,
        cp_rank: int = 0,
        scale: float = 1.0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """angles [positions, 1, 1, dim] -> twice [tokens, 1, 1, dim], times `scale`.

        A row's tokens are the positions; of packed sequences, with cumulative lengths `cu_seqlens`, each starts at the
        first position, and context-parallel rank `cp_rank` of `cp_size` has its zigzag parts of each."""
        if self._answer is None or self._asked[0] is not angles or self._asked[1] is not cu_seqlens:
            self._asked = (angles, cu_seqlens)
            if cu_seqlens is not None:
                angles = angles[_positions(cu_seqlens, cp_size, cp_rank)]
            if self._interleaved:
                angles = angles.chunk(2, dim=-1)[0].repeat_interleave(2, dim=-1)
            self._answer = (angles.cos() * scale, angles.sin() * scale)
        return self._answer


def _positions(cu_seqlens: torch.Tensor, cp_size: int, cp_rank: int) -> torch.Tensor:
    """Of every token of this rank in its sequence."""
    lengths = cu_seqlens.diff()
    starts = cu_seqlens[:-1].repeat_interleave(lengths)
    positions = torch.arange(len(starts), device=cu_seqlens.device) - starts
    if cp_size == 1:
        return positions
    return zigzag(positions, rank=cp_rank, world_size=cp_size, dim=0, cu_seqlens=cu_seqlens)
