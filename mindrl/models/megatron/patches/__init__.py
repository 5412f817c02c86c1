"""What neither a layer spec nor `hal.redirect` can replace in Megatron-core 0.16.1: a ledger, one file an entry.

Every entry has a test that fails once the entry is no longer needed (tests/models/test_megatron_patches.py).
"""

from hal import Accelerator
from mindrl.models.megatron.patches.context_positions import CONTEXT_POSITIONS
from mindrl.models.megatron.patches.ledger import Patch
from mindrl.models.megatron.patches.optimizer_shards import OPTIMIZER_SHARDS
from mindrl.models.megatron.patches.rng_state import SET_RNG_STATE
from mindrl.models.megatron.patches.te_linear import TE_LINEAR

__all__ = ["LEDGER", "Patch", "apply_patches"]

LEDGER: tuple[Patch, ...] = (SET_RNG_STATE, OPTIMIZER_SHARDS, TE_LINEAR, CONTEXT_POSITIONS)


def apply_patches(accelerator: Accelerator) -> None:
    """Put every entry of the ledger in place."""
    for patch in LEDGER:
        patch.apply(accelerator)
