"""A Megatron checkpoint seen through a model's weight map: where the values of each rule's tensor lie."""

from pathlib import Path

from mindrl.checkpoint.saved_weights.interface import SavedWeights
from mindrl.checkpoint.saved_weights.stacked import StackedWeights

__all__ = ["SavedWeights", "open_checkpoint"]


def open_checkpoint(checkpoint: Path) -> SavedWeights:
    """The weights in a checkpoint's own directory (`.../iter_0000010`)."""
    return StackedWeights(checkpoint)
