"""Weights in a checkpoint with a file for each rank: tensor-parallel parts, pipeline stages and experts put together.

How a tensor is cut is told by the shapes of its parts. Layers are numbered from 0 in every virtual stage; those of the
whole model follow each other through the stages, as in a forward pass. A rank of expert-parallel rank `e` holds
`experts / EP` experts from number `e * experts / EP` on, whole or one of the parts of expert tensor parallelism.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from math import prod
from pathlib import Path

from mindrl.checkpoint.byte_plan import ITEM_SIZES, StoredTensor, Tile
from mindrl.checkpoint.formats.rank_files import Unusable, Weights
from mindrl.checkpoint.saved_weights.interface import SavedWeights, require_cover
from mindrl.checkpoint.saved_weights.rank_grid import LAYER, Stage, expert_of, read_grid
from mindrl.checkpoint.saved_weights.same_bytes import same_bytes, whole_tile
from mindrl.errors import RequestError
from mindrl.weight_maps import TensorRule

_STACKED_LAYERS = "decoder.layers."
_ROUTED = re.compile(r"(?P<home>.*\.experts\.)(?P<expert>\d+)\.(?P<matrix>linear_fc[12])\.weight")
"""A rule's name, with the expert's number in the whole model."""


class WeightsByRank(SavedWeights):
    """See `SavedWeights`. Nothing stays open."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint)
        self._grid = read_grid(checkpoint)
        self._stage_of: dict[str, tuple[Stage, str]] = {}
        self._stage_with: dict[str, tuple[Stage, str]] = {}
        for stage in self._grid.stages:
            for name in stage.any_names():
                self._stage_of.setdefault(_in_whole_model(name, stage), (stage, name))
                if expert := expert_of(name):
                    home = _in_whole_model(expert.home, stage)
                    self._stage_with.setdefault(home, (stage, expert.home))
        self._known: dict[str, list[Tile]] = {}

    def close(self) -> None:
        """There is nothing to close."""

    def names(self) -> Iterable[str]:
        found: dict[str, None] = {}
        for stage in self._grid.stages:
            for (_, expert), weights in stage.weights.items():
                for name in weights:
                    first = expert * stage.experts_per_rank
                    found[_with_absolute_expert(_in_whole_model(name, stage), first)] = None
        return found

    def names_of(self, rule: TensorRule) -> Iterable[str]:
        if rule.expert is None:
            return _spellings(rule)
        home = _routed(rule)["home"]
        return rule.megatron_name, f"{home}weight1", f"{home}weight2"

    def require(self, rule: TensorRule) -> None:
        self.tiles(rule)

    def dtype(self, rule: TensorRule) -> str:
        return self.tiles(rule)[0].source.dtype

    def tiles(self, rule: TensorRule) -> list[Tile]:
        tiles = self._known.get(rule.megatron_name)
        if tiles is None:
            find = self._whole if rule.expert is None else self._of_expert
            tiles = self._known[rule.megatron_name] = find(rule)
        return tiles

    def _whole(self, rule: TensorRule) -> list[Tile]:
        """Of a part from every tensor-parallel rank."""
        names = [name for name in _spellings(rule) if name in self._stage_of]
        if not names:
            raise self._missing(_spellings(rule))
        forms = [self._put_together(rule, self._parts(*self._stage_of[name])) for name in names]
        for other in forms[1:]:
            if not same_bytes(forms[0], other):
                raise RequestError(
                    f"{self.path} holds one tensor under the names {' and '.join(names)}, with different values: one of "
                    "them is wrong. Copy the checkpoint again."
                )
        return forms[0]

    def _parts(self, stage: Stage, name: str) -> list[StoredTensor]:
        parts: dict[int, StoredTensor] = {}
        for (tensor, _), weights in stage.weights.items():
            if tensor not in parts:
                parts[tensor] = self._usable(weights, name)
        return [parts[tensor] for tensor in sorted(parts)]

    def _of_expert(self, rule: TensorRule) -> list[Tile]:
        """Of a part from every rank that holds one of this expert."""
        match, num_experts = _routed(rule), rule.stacked_at[-1].size
        if match["home"] not in self._stage_with:
            raise self._missing([rule.megatron_name])
        stage, home = self._stage_with[match["home"]]
        per_rank = num_experts // self._grid.expert_size
        if per_rank * self._grid.expert_size != num_experts or stage.experts_per_rank not in (0, per_rank):
            raise RequestError(
                f"{self.path} has {self._grid.expert_size} expert-parallel ranks with {stage.experts_per_rank} experts "
                f"each, the model has {num_experts}: files are missing, or this is not the config.json of the "
                "checkpoint's model (--hf-dir)."
            )
        owner, number = divmod(int(match["expert"]), per_rank)
        held = {
            tensor: self._matrix(rule, weights, home, number, per_rank)
            for (tensor, expert), weights in stage.weights.items()
            if expert == owner
        }
        first = next(iter(held.values()))
        count = prod(rule.megatron_shape) // max(1, prod(first.shape))
        if count <= 1:
            return self._put_together(rule, [first])
        parts = {(tensor - owner * count) % self._grid.tensor_size: part for tensor, part in held.items()}
        if missing := sorted(set(range(count)) - parts.keys()):
            raise RequestError(
                f"{self.path}: {rule.megatron_name} is cut into {count} parts, and no file holds part {missing[0]}. Copy "
                "the checkpoint again."
            )
        return self._put_together(rule, [parts[part] for part in range(count)])

    def _matrix(
        self, rule: TensorRule, weights: Weights, home: str, number: int, per_rank: int
    ) -> StoredTensor:
        """What one rank holds of an expert, under the name that its module gives it."""
        matrix = _routed(rule)["matrix"]
        names = (f"{home}local_experts.{number}.{matrix}.weight", f"{home}{matrix}.weight{number}")
        for name in names:
            if name in weights:
                return self._usable(weights, name)
        name = f"{home}weight{matrix[-1]}"
        if name not in weights:
            raise self._missing((*names, name))
        return self._one_of_flat(self._usable(weights, name), rule, matrix, number, per_rank)

    def _one_of_flat(
        self, flat: StoredTensor, rule: TensorRule, matrix: str, number: int, per_rank: int
    ) -> StoredTensor:
        """One expert's matrix, transposed, in `weight1` [hidden, experts * rows] or `weight2` [experts * columns,
        hidden], both of which hold [experts, inputs, outputs]."""
        outputs, inputs = rule.megatron_shape
        if flat.transposed or len(flat.shape) != 2:
            raise self._wrong_shape(rule, [flat])
        if matrix == "linear_fc1":
            fits, outputs = flat.rows == inputs, flat.columns // per_rank
        else:
            fits, inputs = flat.columns == outputs, flat.rows // per_rank
        if not fits or inputs * outputs * per_rank != prod(flat.shape):
            raise self._wrong_shape(rule, [flat])
        start = flat.offset + number * inputs * outputs * ITEM_SIZES[flat.dtype]
        return replace(
            flat, name=f"{flat.name} expert {number}", offset=start, shape=(outputs, inputs), transposed=True
        )

    def _usable(self, weights: Weights, name: str) -> StoredTensor:
        tensor = weights.get(name)
        if tensor is None:
            raise self._missing([name])
        if isinstance(tensor, Unusable):
            raise RequestError(f"{tensor.label} can't be read: {tensor.reason}.")
        return tensor

    def _missing(self, names: Iterable[str]) -> RequestError:
        return RequestError(
            f"{self.path} has no tensor {', nor '.join(names)}, which this model needs. "
            "Is this the config.json of the checkpoint's model (--hf-dir)?"
        )

    def _put_together(self, rule: TensorRule, parts: list[StoredTensor]) -> list[Tile]:
        part, wanted, count = parts[0], rule.megatron_shape, len(parts)
        if any((other.shape, other.dtype) != (part.shape, part.dtype) for other in parts):
            raise self._wrong_shape(rule, parts)
        if count > 1 and part.shape == wanted and rule.partition == "replicated":
            self._require_alike(rule, parts)
            return [whole_tile(part)]
        rows, columns = wanted[0], prod(wanted[1:])
        if rule.partition == "gated_rows" and (part.rows * count, part.columns) == (rows, columns):
            half = part.rows // 2
            tiles = [
                Tile(tensor, source, 0, place * rows // 2 + number * half, 0, half, columns)
                for number, tensor in enumerate(parts)
                for place, source in enumerate((0, half))
            ]
        elif rule.partition == "columns" and (part.rows, part.columns * count) == (rows, columns):
            tiles = [whole_tile(tensor, 0, number * part.columns) for number, tensor in enumerate(parts)]
        elif part.columns == columns and _rows_fit(rule, part.rows * count):
            tiles = [whole_tile(tensor, number * part.rows, 0) for number, tensor in enumerate(parts)]
            rows = part.rows * count
        else:
            raise self._wrong_shape(rule, parts)
        require_cover(self.path, rule.megatron_name, (rows, columns), tiles)
        return tiles

    def _require_alike(self, rule: TensorRule, parts: list[StoredTensor]) -> None:
        """Ranks' copies of norms and biases are compared; of matrices that would double what is read."""
        if len(rule.megatron_shape) > 1:
            return
        for other in parts[1:]:
            if not same_bytes([whole_tile(parts[0])], [whole_tile(other)]):
                raise RequestError(
                    f"{parts[0].path} and {other.path} hold {rule.megatron_name}, of which every rank has a copy, with "
                    "different values: they are of two checkpoints, or ranks have drifted apart in training. Copy the "
                    "checkpoint again, or load and save it with Megatron-LM and --ckpt-format torch_dist, which takes the first rank's."
                )

    def _wrong_shape(self, rule: TensorRule, parts: list[StoredTensor]) -> RequestError:
        shapes = ", ".join(dict.fromkeys(str(part.shape) for part in parts))
        return RequestError(
            f"{parts[0].path}: {rule.megatron_name} is in {len(parts)} parts of {shapes}; config.json wants "
            f"{rule.megatron_shape}, cut by {rule.partition.replace('_', ' ')}. Files of tensor-parallel ranks are "
            "missing, or this is not the config.json of the checkpoint's model (--hf-dir)."
        )


def _rows_fit(rule: TensorRule, rows: int) -> bool:
    return rows >= rule.megatron_shape[0] if rule.pads_vocabulary else rows == rule.megatron_shape[0]


def _spellings(rule: TensorRule) -> list[str]:
    """Names that modules of different specs give the tensor, with its layer's number in the whole model."""
    names = [rule.megatron_name]
    layer = LAYER.match(rule.megatron_name)
    for key in (rule.checkpoint_key, *rule.other_keys):
        if layer is not None and not LAYER.match(key):
            key = layer[0] + key.removeprefix(_STACKED_LAYERS)
        names.append(key)
    return list(dict.fromkeys(names))


def _in_whole_model(name: str, stage: Stage) -> str:
    """With the layer's number in the whole model."""
    match = LAYER.match(name)
    return f"decoder.layers.{int(match[1]) + stage.first_layer}.{name[match.end() :]}" if match else name


def _routed(rule: TensorRule) -> re.Match[str]:
    match = _ROUTED.fullmatch(rule.megatron_name)
    assert match is not None, rule.megatron_name
    return match


def _with_absolute_expert(name: str, first: int) -> str:
    expert = expert_of(name)
    if expert is None or not expert.matrix:
        return name
    return f"{expert.home}{first + expert.number}.{expert.matrix}.weight"
