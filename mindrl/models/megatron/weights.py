"""Weights in and out of a sharded model, through the family's weight map."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes

from mindrl.models.megatron.model import PolicyModel
from mindrl.models.safetensors_reader import SafetensorsReader
from mindrl.weight_maps import TensorRule, WeightMap

OUTPUT_LAYER = "output_layer.weight"
EMBEDDING = "embedding.word_embeddings.weight"


@dataclass(frozen=True, slots=True)
class _Home:
    """Where a Megatron tensor lives."""

    stage: int
    """First pipeline stage that holds it."""
    shard_shape: tuple[int, ...]


class ModelWeights:
    """This rank's parameters under their names in the weight map. Making one is collective."""

    def __init__(self, model: PolicyModel, weight_map: WeightMap) -> None:
        self._map = weight_map
        self._params = {_global_name(model, name): param for name, param in model.named_parameters()}
        self._tensor_group = parallel_state.get_tensor_model_parallel_group()
        self._pipeline_group = parallel_state.get_pipeline_model_parallel_group()
        self._homes = self._find_homes()

    def mark_partitions(self) -> None:
        """Tell Megatron which parameters are cut over tensor-parallel ranks.

        It counts the others once in the gradient norm. Its layers leave the mark out when they are built without
        initial values, and the norm, with the clipping, is silently too small."""
        for name, param in self._params.items():
            rule = self._rule(name)
            marked = getattr(param, "tensor_model_parallel", False)  # biases have it from the start
            if rule.partition != "replicated" and not marked:
                set_tensor_model_parallel_attributes(
                    param,
                    is_parallel=True,
                    dim=1 if rule.partition == "columns" else 0,
                    stride=2 if rule.partition == "gated_rows" else 1,
                )

    @torch.no_grad()
    def load_hf(self, directory: Path) -> None:
        """Take every local parameter from the safetensors files of a Hugging Face directory."""
        rank, size = dist.get_rank(self._tensor_group), dist.get_world_size(self._tensor_group)
        with SafetensorsReader(directory) as reader:
            for name, param in self._params.items():
                rule = self._rule(name)
                full = rule.merge([reader.tensor(source.name) for source in rule.hf])
                param.copy_(rule.shard(_pad_rows(rule, full, size), rank, size))

    @torch.no_grad()
    def named_tensors(
        self, view: Callable[[torch.nn.Parameter], torch.Tensor] = torch.Tensor.detach
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Full tensors under their Hugging Face names, in the order of the weight map, on every rank.

        `view` picks what to show of a parameter: the weight, or something of its shape such as its gradient."""
        local = {name: view(param) for name, param in self._params.items()}
        for rule in self._map.rules:
            yield from rule.split(rule.unshard(self._all_shards(rule, local)))

    def _all_shards(self, rule: TensorRule, local: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Every tensor-parallel rank's shard: first to all pipeline stages, then to all ranks of a stage."""
        shard = self._shard_from_stage(rule.megatron_name, local)
        size = dist.get_world_size(self._tensor_group)
        if size == 1 or rule.partition == "replicated":
            return [shard]
        shards = [torch.empty_like(shard) for _ in range(size)]
        dist.all_gather(shards, shard, group=self._tensor_group)
        return shards

    def _shard_from_stage(self, name: str, local: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if dist.get_world_size(self._pipeline_group) == 1:
            return local[name]
        home = self._homes[name]
        if dist.get_rank(self._pipeline_group) == home.stage:
            shard = local[name].contiguous()
        else:
            shard = next(iter(local.values())).new_empty(home.shard_shape)
        dist.broadcast(
            shard, dist.get_global_rank(self._pipeline_group, home.stage), group=self._pipeline_group
        )
        return shard

    def _rule(self, name: str) -> TensorRule:
        tied_copy = name == OUTPUT_LAYER and self._map.architecture.tied_embeddings
        return self._map.by_megatron_name[EMBEDDING if tied_copy else name]

    def _find_homes(self) -> dict[str, _Home]:
        stages: list[dict[str, tuple[int, ...]]] = [{}] * dist.get_world_size(self._pipeline_group)
        mine = {name: tuple(param.shape) for name, param in self._params.items()}
        dist.all_gather_object(stages, mine, group=self._pipeline_group)
        homes: dict[str, _Home] = {}
        for stage, shapes in enumerate(stages):
            for name, shape in shapes.items():
                homes.setdefault(name, _Home(stage, shape))
        missing = [rule.megatron_name for rule in self._map.rules if rule.megatron_name not in homes]
        unknown = [name for name in mine if self._rule_or_none(name) is None]
        if missing or unknown:
            raise ValueError(f"weight map and model differ: no parameters {missing}, no rules for {unknown}")
        return homes

    def _rule_or_none(self, name: str) -> TensorRule | None:
        try:
            return self._rule(name)
        except KeyError:
            return None


def _global_name(model: PolicyModel, name: str) -> str:
    """A parameter's name with the layer's index in the whole model instead of its index in the stage."""
    found = re.match(r"decoder\.layers\.(\d+)\.", name)
    if found is None:
        return name
    layer = model.decoder.layers[int(found[1])].layer_number - 1
    return f"decoder.layers.{layer}.{name[found.end() :]}"


def _pad_rows(rule: TensorRule, full: torch.Tensor, tensor_parallel_size: int) -> torch.Tensor:
    """Rows of zeros below the vocabulary, up to a multiple of the tensor-parallel size."""
    missing = -full.shape[0] % tensor_parallel_size
    if not rule.pads_vocabulary or missing == 0:
        return full
    return torch.cat([full, full.new_zeros(missing, *full.shape[1:])])
