"""Megatron's helper that restores the device's random state, for the device at hand."""

from collections.abc import Callable

import torch

from hal import Accelerator
from mindrl.models.megatron.patches.ledger import Patch


def _make_set(accelerator: Accelerator) -> Callable[..., None]:
    def set_rng_state(
        new_state: torch.Tensor, device: int | str | torch.device | None = None, graph_safe: bool = False
    ) -> None:
        """On the current device; captured graphs, which `graph_safe` is for, are not used here."""
        del device
        assert not graph_safe
        accelerator.set_rng_state(new_state)

    return set_rng_state


SET_RNG_STATE = Patch(
    module="megatron.core.tensor_parallel.random",
    function="_set_cuda_rng_state",
    why="Queues the new state until one vendor's device is initialised, which elsewhere is never: the state is "
    "silently not set. Random regions that should differ between tensor-parallel ranks then do not, they disturb the "
    "stream around them, and on devices with a generator of their own recomputed activations get other dropout masks "
    "than the first pass (gradients wrong by 0.28, without an error).",
    until="Megatron-core sets random state through an interface that every torch device has.",
    make=_make_set,
)
