"""A Megatron checkpoint seen through a model's weight map: where the values of each rule's tensor lie.

`stacked` reads `torch_dist` directories, `by_rank` the older ones with a file for each rank."""

from pathlib import Path

from mindrl.checkpoint.directories import holds_rank_files
from mindrl.checkpoint.saved_weights.by_rank import WeightsByRank
from mindrl.checkpoint.saved_weights.interface import SavedWeights
from mindrl.checkpoint.saved_weights.stacked import StackedWeights

__all__ = ["SavedWeights", "open_checkpoint"]


def open_checkpoint(checkpoint: Path) -> SavedWeights:
    """The weights in a checkpoint's own directory (`.../iter_0000010`), of either layout; see `latest_weights`."""
    return WeightsByRank(checkpoint) if holds_rank_files(checkpoint) else StackedWeights(checkpoint)
