"""Weights in a `torch_dist` checkpoint, under every name and in every stack that Megatron-core saves them in.

For a matrix of expert 7 in layer 3 these are `decoder.layers.mlp.experts.experts.linear_fc1.weight` [layers, experts,
rows, columns], `decoder.layers.3.mlp...` [experts, rows, columns], or `decoder.layers.3.mlp.experts.experts.7...`
[rows, columns] (`singleton_local_shards`), where gate and up may be tensors of their own, `..._w` and `..._v`.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import BinaryIO

from mindrl.checkpoint.byte_plan import ITEM_SIZES, StoredTensor, Tile
from mindrl.checkpoint.formats.torch_archives import WEIGHT_DTYPES, locate_tensor
from mindrl.checkpoint.formats.torch_dist import Chunk, GlobalTensor, read_directory
from mindrl.checkpoint.saved_weights.interface import SavedWeights, padded_shape_fits, require_cover
from mindrl.checkpoint.saved_weights.same_bytes import same_bytes
from mindrl.errors import RequestError
from mindrl.weight_maps import Place, TensorRule

_LAYER = re.compile(r"decoder\.layers\.\d+\.")
_STACKED_LAYERS = "decoder.layers."
_STACKED_EXPERTS = ".mlp.experts.experts."
_WEIGHTS = ("decoder.", "embedding.", "output_layer.", "mtp.")


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows of a rule's tensor, and where a checkpoint may hold them."""

    key: str
    stack: tuple[Place, ...]
    first_row: int = 0
    num_rows: int | None = None
    """None: all, padding included."""


class StackedWeights(SavedWeights):
    """See `SavedWeights`."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint)
        self._saved = read_directory(checkpoint)
        self._files: dict[str, BinaryIO] = {}
        self._by_place: dict[str, dict[tuple[int, ...], list[Chunk]]] = {}
        self._forms: dict[str, list[tuple[_Part, ...]]] = {}
        self._located: dict[Chunk, StoredTensor] = {}

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def names(self) -> Iterable[str]:
        return (key for key in self._saved if key.startswith(_WEIGHTS) and not key.endswith("_extra_state"))

    def names_of(self, rule: TensorRule) -> Iterable[str]:
        return (part.key for parts in self._found(rule) for part in parts)

    def require(self, rule: TensorRule) -> None:
        for parts in self._found(rule):
            for part in parts:
                self._require_file(rule, part)

    def dtype(self, rule: TensorRule) -> str:
        return self._saved[self._found(rule)[0][0].key].dtype

    def tiles(self, rule: TensorRule) -> list[Tile]:
        first, *others = (self._tiles_of(rule, parts) for parts in self._found(rule))
        for other in others:
            if not same_bytes(first, other):
                raise RequestError(
                    f"{self.path} holds {first[0].source.name} and {other[0].source.name}, which are one tensor "
                    f"({rule.megatron_name}) under two names, with different values: one of them is wrong. Convert "
                    "the checkpoint again."
                )
        return first

    def _found(self, rule: TensorRule) -> list[tuple[_Part, ...]]:
        """Every form in which the checkpoint holds the tensor."""
        if (known := self._forms.get(rule.megatron_name)) is not None:
            return known
        found = [parts for parts in _forms(rule) if all(part.key in self._saved for part in parts)]
        if not found:
            names = dict.fromkeys(part.key for parts in _forms(rule) for part in parts if len(parts) == 1)
            raise RequestError(
                f"{self.path} has no tensor {', nor '.join(names)}, which this model needs. "
                "Is this the config.json of the checkpoint's model (--hf-dir)?"
            )
        for parts in found:
            for part in parts:
                self._check_shape(rule, part)
        self._forms[rule.megatron_name] = found
        return found

    def _check_shape(self, rule: TensorRule, part: _Part) -> None:
        tensor, stack = self._saved[part.key], tuple(place.size for place in part.stack)
        found, wanted = tensor.shape[len(stack) :], rule.megatron_shape
        if part.num_rows is not None:
            wanted = (part.num_rows, *wanted[1:])
        fits = found == wanted if part.num_rows is not None else found and padded_shape_fits(rule, found)
        if tensor.shape[: len(stack)] != stack or not fits:
            raise RequestError(
                f"Checkpoint tensor {part.key} has shape {tensor.shape}; config.json wants {(*stack, *wanted)}. "
                "Is this the config.json of the checkpoint's model (--hf-dir)?"
            )
        if tensor.dtype not in WEIGHT_DTYPES:
            raise RequestError(
                f"Checkpoint tensor {part.key} in {self.path} is stored as {tensor.dtype}; weights are read as "
                f"{', '.join(WEIGHT_DTYPES)}. Save the checkpoint again in one of these."
            )

    def _tiles_of(self, rule: TensorRule, parts: tuple[_Part, ...]) -> list[Tile]:
        tiles: list[Tile] = []
        for part in parts:
            tensor, index = self._saved[part.key], tuple(place.index for place in part.stack)
            shape = tensor.shape[len(index) :]
            chunks = self._chunks_at(tensor, len(index)).get(index, ())
            own = [self._tile(tensor, chunk, index) for chunk in chunks]
            require_cover(self.path, f"{part.key} {index}", (shape[0], prod(shape[1:])), own)
            tiles += [_lowered(tile, part.first_row) for tile in own]
        return tiles

    def _tile(self, tensor: GlobalTensor, chunk: Chunk, index: tuple[int, ...]) -> Tile:
        """One weight's values in a chunk, which may hold those of several experts."""
        leading = len(index)
        whole = self._locate(tensor, chunk)
        shape = chunk.sizes[leading:]
        number = 0
        for place, first, size in zip(index, chunk.offsets, chunk.sizes, strict=False):
            number = number * size + place - first
        stored = StoredTensor(
            f"{tensor.key} {(*index, *chunk.offsets[leading:])}",
            whole.path,
            whole.offset + number * prod(shape) * ITEM_SIZES[whole.dtype],
            shape,
            whole.dtype,
            payload=whole.payload,
        )
        row, column, *_ = (*chunk.offsets[leading:], 0)
        return Tile(stored, 0, 0, row, column, stored.rows, stored.columns)

    def _locate(self, tensor: GlobalTensor, chunk: Chunk) -> StoredTensor:
        stored = self._located.get(chunk)
        if stored is None:
            name = f"{tensor.key} {chunk.offsets}"
            stored = locate_tensor(self._open(chunk.file), chunk.offset, chunk.length, name)
            if stored.shape != chunk.sizes or stored.dtype != tensor.dtype:
                raise RequestError(
                    f"{stored.path} holds {stored.dtype} {stored.shape} where the checkpoint's metadata has "
                    f"{tensor.dtype} {chunk.sizes} of {tensor.key}. Copy or convert the checkpoint again."
                )
            if prod(stored.shape[: len(stored.shape) - 2]) > 1:  # of several weights, each of which will ask
                self._located[chunk] = stored
        return stored

    def _chunks_at(self, tensor: GlobalTensor, leading: int) -> dict[tuple[int, ...], list[Chunk]]:
        """Chunks by each place of the stack that they have values of."""
        by_place = self._by_place.get(tensor.key)
        if by_place is None:
            by_place = self._by_place[tensor.key] = {}
            for chunk in tensor.chunks:
                if not prod(chunk.sizes):
                    continue
                spans = zip(chunk.offsets[:leading], chunk.sizes[:leading], strict=True)
                for place in product(*(range(first, first + size) for first, size in spans)):
                    by_place.setdefault(place, []).append(chunk)
        return by_place

    def _require_file(self, rule: TensorRule, part: _Part) -> None:
        tensor, index = self._saved[part.key], tuple(place.index for place in part.stack)
        for chunk in self._chunks_at(tensor, len(index)).get(index, ()):
            self._open(chunk.file)

    def _open(self, name: str) -> BinaryIO:
        if name not in self._files:
            path = self.path / name
            if path.exists() and not path.is_file():  # opening a pipe would wait for whoever writes into it
                raise RequestError(f"{path}, which the checkpoint's metadata names, is not a file.")
            try:
                self._files[name] = path.open("rb")
            except OSError as error:
                raise RequestError(
                    f"{path}, which the checkpoint's metadata names, can't be read: {error.strerror}. Copy or convert "
                    "the checkpoint again."
                ) from error
        return self._files[name]


def _forms(rule: TensorRule) -> Iterator[tuple[_Part, ...]]:
    """Forms in which Megatron stores the tensor, each of one part, or of two: gate and up."""
    half = rule.megatron_shape[0] // 2
    for key, stack in _names(rule):
        yield (_Part(key, stack),)
        if rule.partition == "gated_rows":
            yield _Part(f"{key}_w", stack, 0, half), _Part(f"{key}_v", stack, half, half)


def _names(rule: TensorRule) -> Iterator[tuple[str, tuple[Place, ...]]]:
    """Keys that Megatron stores the tensor under, each with what is stacked there."""
    layer = _LAYER.match(rule.megatron_name)
    for key in (rule.checkpoint_key, *rule.other_keys):
        stack = rule.stacked_at
        yield key, stack
        if layer is not None and key.startswith(_STACKED_LAYERS) and not _LAYER.match(key):
            key, stack = layer[0] + key.removeprefix(_STACKED_LAYERS), stack[1:]
            yield key, stack
        if rule.expert is not None and _STACKED_EXPERTS in key:
            yield key.replace(_STACKED_EXPERTS, f"{_STACKED_EXPERTS}{rule.expert}."), stack[:-1]


def _lowered(tile: Tile, rows: int) -> Tile:
    return Tile(tile.source, 0, 0, tile.row + rows, tile.column, tile.num_rows, tile.num_columns)
