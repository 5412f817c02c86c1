"""Megatron's two helpers that save and restore the device's random state, for the device at hand."""

from collections.abc import Callable

import torch

from hal import Accelerator
from mindrl.models.megatron.patches.ledger import Patch

MODULE = "megatron.core.tensor_parallel.random"
UNTIL = "Megatron-core reads and sets random state through an interface that every torch device has."


def _make_get(accelerator: Accelerator) -> Callable[..., torch.Tensor]:
    def get_rng_state(
        device: int | str | torch.device | None = None, clone: bool = False, graph_safe: bool = False
    ) -> torch.Tensor:
        """State of the current device's generator; captured graphs are not used here."""
        del device, clone
        assert not graph_safe
        return accelerator.get_rng_state()

    return get_rng_state


def _make_set(accelerator: Accelerator) -> Callable[..., None]:
    def set_rng_state(
        new_state: torch.Tensor, device: int | str | torch.device | None = None, graph_safe: bool = False
    ) -> None:
        """Inverse of the above, on the current device."""
        del device
        assert not graph_safe
        accelerator.set_rng_state(new_state)

    return set_rng_state


GET_RNG_STATE = Patch(
    module=MODULE,
    function="_get_cuda_rng_state",
    why="Reads one vendor's generator through torch's internals.",
    until=UNTIL,
    make=_make_get,
)
SET_RNG_STATE = Patch(
    module=MODULE,
    function="_set_cuda_rng_state",
    why="Queues the new state until one vendor's device is initialised, which elsewhere is never: the state is "
    "silently not restored, and recomputed activations get other dropout masks than the first pass "
    "(gradients wrong by 0.28 in the recompute test, without an error).",
    until=UNTIL,
    make=_make_set,
)
