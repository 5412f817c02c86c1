"""One rule per Megatron tensor: which rows of which Hugging Face tensors it is made of, and how it is cut.

The same blocks serve byte ranges in files (`mindrl.checkpoint`) and tensors in memory (`merge`, `split`), so that
offline conversion and live weight sync can't disagree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Literal

from mindrl.weight_maps.architecture import Architecture

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]
Partition = Literal["replicated", "rows", "columns", "gated_rows"]
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class HfTensor:
    """A tensor under its Hugging Face name."""

    name: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class RowBlock:
    """`num_rows` consecutive rows, from `start_row` on, of the rule's source tensor number `source`."""

    source: int
    start_row: int
    num_rows: int


@dataclass(frozen=True, slots=True)
class Place:
    """Number `index` of `size` along a leading dimension of a checkpoint's tensor."""

    index: int
    size: int


@dataclass(frozen=True, slots=True)
class TensorRule:
    """One Megatron tensor and the Hugging Face tensors whose rows it holds, each row exactly once."""

    megatron_name: str
    """Parameter name in a GPTModel of local spec, with the absolute index of its layer; of an expert's, as in
    `decoder.layers.3.mlp.experts.7.linear_fc1.weight`, with the expert's too."""
    checkpoint_key: str
    """Name in a `torch_dist` checkpoint, shared by all tensors that are stacked there."""
    stacked_at: tuple[Place, ...]
    """This tensor's place along the leading dimensions of the stack: of layers, of experts, of both or of neither."""
    hf: tuple[HfTensor, ...]
    """Sources; all have the same number of columns."""
    blocks: tuple[RowBlock, ...]
    """Row blocks in the order in which they make up the Megatron tensor."""
    partition: Partition
    """How tensor parallelism cuts it: not at all, along dimension 0, along dimension 1, or along dimension 0 of
    its gate half and its up half separately."""
    pads_vocabulary: bool = False
    """Megatron may hold more rows than these: padding below the last row, cut off on the way back."""
    other_keys: tuple[str, ...] = ()
    """Keys under which checkpoints hold the same tensor for other layer specs: converted ones have it under all."""
    expert: int | None = None
    """The routed expert that it belongs to: it lies on that expert's ranks, and expert tensor parallelism cuts it."""
    keeps_dtype: bool = False
    """Its type stays as it is whatever type weights are converted to: it is no parameter (a router's bias)."""

    @property
    def checkpoint_shape(self) -> Shape:
        """Of the stack in a checkpoint, unpadded."""
        return (*(place.size for place in self.stacked_at), *self.megatron_shape)

    @property
    def megatron_shape(self) -> Shape:
        """Full (unsharded, unpadded) shape."""
        return (sum(block.num_rows for block in self.blocks), *self.hf[0].shape[1:])

    def merge(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Hugging Face tensors, in the order of `hf`, to the full Megatron tensor."""
        import torch

        for tensor, source in zip(tensors, self.hf, strict=True):
            if tuple(tensor.shape) != source.shape:
                raise ValueError(f"{source.name} has shape {tuple(tensor.shape)}, expected {source.shape}.")
        if len(self.blocks) == 1:
            return tensors[0]
        return torch.cat([tensors[b.source][b.start_row : b.start_row + b.num_rows] for b in self.blocks])

    def split(self, full: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
        """Full Megatron tensor to (name, tensor) in the order of `hf`; vocabulary padding is cut off.

        Results may be views of `full`."""
        import torch

        rows = self.megatron_shape[0]
        fits = full.shape[0] >= rows if self.pads_vocabulary else full.shape[0] == rows
        if not fits or tuple(full.shape[1:]) != self.megatron_shape[1:]:
            raise ValueError(
                f"{self.megatron_name} has shape {tuple(full.shape)}, expected {self.megatron_shape}."
            )
        parts: list[list[torch.Tensor]] = [[] for _ in self.hf]
        start = 0
        for block in self.blocks:
            parts[block.source].append(full[start : start + block.num_rows])
            start += block.num_rows
        return [
            (source.name, part[0] if len(part) == 1 else torch.cat(part))
            for source, part in zip(self.hf, parts, strict=True)
        ]

    def shard(self, full: torch.Tensor, rank: int, size: int) -> torch.Tensor:
        """The part of tensor-parallel rank `rank` of `size`; pad the vocabulary first where it needs padding."""
        import torch

        if self.partition == "replicated" or size == 1:
            return full
        if self.partition == "gated_rows":
            return torch.cat([self._cut(half, 0, rank, size) for half in full.chunk(2)])
        return self._cut(full, 1 if self.partition == "columns" else 0, rank, size)

    def unshard(self, shards: Sequence[torch.Tensor]) -> torch.Tensor:
        """Inverse of `shard`: all ranks' parts, in rank order, to the full tensor."""
        import torch

        if self.partition == "replicated" or len(shards) == 1:
            return shards[0]
        if self.partition == "gated_rows":
            halves = [shard.chunk(2) for shard in shards]
            return torch.cat([gate for gate, _ in halves] + [up for _, up in halves])
        return torch.cat(list(shards), dim=1 if self.partition == "columns" else 0)

    def _cut(self, tensor: torch.Tensor, dim: int, rank: int, size: int) -> torch.Tensor:
        if tensor.shape[dim] % size:
            raise ValueError(
                f"{self.megatron_name} {tuple(tensor.shape)} can't be cut into {size} equal parts along "
                f"dimension {dim}."
            )
        width = tensor.shape[dim] // size
        return tensor.narrow(dim, rank * width, width)


@dataclass(frozen=True)
class WeightMap:
    """All tensors of one model."""

    architecture: Architecture
    rules: tuple[TensorRule, ...]
    """In the order in which weights are exported: embedding, layers, final norm, output layer, MTP layers."""
    mtp: bool = False
    """Whether the layers for multi-token prediction are among them."""
    copies: Mapping[str, str] = field(default_factory=dict[str, str])
    """Further Hugging Face tensors, and the one of `hf_tensors` that each is a copy of, bit for bit. Megatron holds
    one tensor for both. A file may lack the copy; on the way back it is written."""

    @cached_property
    def by_megatron_name(self) -> dict[str, TensorRule]:
        return {rule.megatron_name: rule for rule in self.rules}

    @cached_property
    def by_hf_name(self) -> dict[str, TensorRule]:
        """The rule whose Megatron tensor holds each Hugging Face tensor."""
        return {source.name: rule for rule in self.rules for source in rule.hf}

    @property
    def hf_tensors(self) -> tuple[HfTensor, ...]:
        """Every tensor of the Hugging Face model; a tied output layer is not one."""
        return tuple(source for rule in self.rules for source in rule.hf)

    @property
    def num_parameters(self) -> int:
        """Parameters of the model, tied ones counted once."""
        return sum(prod(rule.megatron_shape) for rule in self.rules if not rule.keeps_dtype)

    def leaves_out(self, hf_name: str) -> bool:
        """Whether files of this model may hold this tensor and the map drops it on purpose: it is of an MTP layer."""
        found = None if self.mtp else _LAYER.match(hf_name)
        if found is None:
            return False
        first = self.architecture.num_layers
        return first <= int(found[1]) < first + self.architecture.num_mtp_layers
