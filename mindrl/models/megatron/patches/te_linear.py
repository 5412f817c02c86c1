"""TransformerEngine's linear layer, where TransformerEngine is missing."""

from megatron.core.extensions import transformer_engine

from hal import Accelerator
from mindrl.models.megatron.patches.ledger import Patch


class NoLinear:
    """Nothing is an instance of it."""


def _make(accelerator: Accelerator) -> type:
    del accelerator
    found = transformer_engine.TELinear
    return found if isinstance(found, type) else NoLinear


TE_LINEAR = Patch(
    module="megatron.core.extensions.transformer_engine",
    function="TELinear",
    why="Without TransformerEngine it is a mock object and no class, and latent attention, which asks whether a layer "
    "is an instance of it, can't be built: TypeError.",
    until="Megatron-core leaves the class undefined, or asks first whether TransformerEngine is there.",
    make=_make,
)
