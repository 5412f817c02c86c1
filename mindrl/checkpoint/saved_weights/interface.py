"""What planning asks of a Megatron checkpoint, whatever its layout."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from mindrl.checkpoint.byte_plan import Tile
from mindrl.checkpoint.plan_proof import PlanError, check_cover
from mindrl.errors import RequestError
from mindrl.weight_maps import MTP_PREFIX, TensorRule, WeightMap


class SavedWeights(ABC):
    """A model's tensors in a checkpoint. Every method raises `RequestError` for what is missing or damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        """Of the one checkpoint: `.../release`, `.../iter_0000010`."""

    @abstractmethod
    def require(self, rule: TensorRule) -> None:
        """The tensor is there and has the rule's shape, as far as the checkpoint's directory says."""

    @abstractmethod
    def tiles(self, rule: TensorRule) -> list[Tile]:
        """Where the tensor's values lie: rectangles of stored tensors that fill the full matrix, padding included.

        Stored tensors hold values of this rule only."""

    @abstractmethod
    def dtype(self, rule: TensorRule) -> str:
        """Type in which the tensor is stored."""

    @abstractmethod
    def names(self) -> Iterable[str]:
        """Of every weight in the checkpoint, no optimizer state among them; layers by absolute index or stacked."""

    @abstractmethod
    def names_of(self, rule: TensorRule) -> Iterable[str]:
        """Those among `names` that hold the rule's tensor."""

    @abstractmethod
    def close(self) -> None:
        """Close the files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def require_model(self, weights: WeightMap) -> None:
        """Every tensor of the map is there, and no tensor that is not of the map: a layer less would be no error."""
        used: set[str] = set()
        for rule in weights.rules:
            self.require(rule)
            used.update(self.names_of(rule))
        if unknown := sorted(
            name for name in self.names() if name not in used and not _may_be_there(name, weights)
        ):
            more = f" and {len(unknown) - 4} more" if len(unknown) > 4 else ""
            raise RequestError(
                f"{self.path} holds tensors that a {weights.architecture.model_type} model of "
                f"{weights.architecture.num_layers} layers does not have: {', '.join(unknown[:4])}{more}. "
                "Is this the config.json of the checkpoint's model (--hf-dir)?"
            )


def padded_shape_fits(rule: TensorRule, shape: Sequence[int]) -> bool:
    """Whether a full tensor is the rule's; a vocabulary may be padded."""
    wanted = rule.megatron_shape
    if rule.pads_vocabulary:
        return tuple(shape[1:]) == wanted[1:] and shape[0] >= wanted[0]
    return tuple(shape) == wanted


def require_cover(path: Path, name: str, shape: tuple[int, int], tiles: Iterable[Tile]) -> None:
    """`RequestError` unless tiles fill the matrix without gap or overlap."""
    try:
        check_cover(name, shape, [(tile.row, tile.column, tile.num_rows, tile.num_columns) for tile in tiles])
    except PlanError as error:
        raise RequestError(
            f"{path} is damaged: its parts of {error} of the tensor. Copy or convert the checkpoint again."
        ) from None


def _may_be_there(name: str, weights: WeightMap) -> bool:
    """MTP layers may be left out by choice; a tied output layer is the embedding, on the last pipeline stage."""
    if name.startswith(MTP_PREFIX):
        return not weights.mtp
    return name == "output_layer.weight" and weights.architecture.tied_embeddings
