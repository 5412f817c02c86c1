"""Bring Megatron-core to the device at hand: redirect its modules, then patch what a redirect can't reach."""

import logging
import sys
from collections.abc import Callable
from types import ModuleType

import megatron.core.dist_checkpointing.strategies.torch  # noqa: F401  checkpoints need the redirect too
import torch
from megatron.core.models.common.embeddings import rope_utils

import hal
from hal import Accelerator, Selection
from mindrl.models.megatron.patches import apply_patches


def prepare(accelerator: Accelerator) -> None:
    """Make every Megatron module imported so far work on `accelerator`. Repeating it changes nothing."""
    hal.redirect(megatron_modules(), accelerator)
    apply_patches(accelerator)
    if accelerator.device_type == "cpu":
        # It warns whenever drawing random numbers on the device also advances the host's generator: here they are one.
        logging.getLogger("megatron.core.tensor_parallel.random").setLevel(logging.ERROR)


def megatron_modules() -> list[ModuleType]:
    """The Megatron modules that this process has imported."""
    return [module for name, module in sys.modules.items() if name.partition(".")[0] == "megatron"]


def use_rotary_kernel(selection: Selection) -> None:
    """Put the HAL's rotary kernel behind Megatron's hook for fused rotary embedding.

    The hook is one per process. Call it before a TransformerConfig with `apply_rope_fusion` is made, which looks
    whether the hook is there."""
    current = rope_utils.fused_apply_rotary_pos_emb
    if isinstance(current, RotaryHook):
        if current.kernel is not selection.rotary:
            raise ValueError(
                f"another model of this process computes its rotary embedding with {current.kernel}, this one asks "
                f"for {selection.rotary}; actor and reference share one selection"
            )
        return
    rope_utils.fused_apply_rotary_pos_emb = RotaryHook(selection.rotary)


class RotaryHook:
    """`fused_apply_rotary_pos_emb` of Megatron: angles instead of their cosines and sines.

    A model computes the angles of a length once and passes the same tensor to all its layers."""

    def __init__(self, kernel: Callable[..., torch.Tensor]) -> None:
        self.kernel = kernel
        self._angles: torch.Tensor | None = None
        self._cos_sin: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, x: torch.Tensor, angles: torch.Tensor, interleaved: bool = False) -> torch.Tensor:
        """x [length, rows, heads, head_dim], angles [length, 1, 1, rotary_dim] -> the shape of x."""
        if self._cos_sin is None or self._angles is not angles:
            self._angles, self._cos_sin = angles, (angles.cos(), angles.sin())
        return self.kernel(x, *self._cos_sin, interleaved=interleaved)
