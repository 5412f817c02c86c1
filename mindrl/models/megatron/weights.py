"""Weights in and out of a sharded model, through the family's weight map."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes

from mindrl.models.megatron.gathering import Gathering, cutting_group, parameter_name
from mindrl.models.megatron.model import PolicyModel
from mindrl.models.safetensors_reader import SafetensorsReader
from mindrl.weight_maps import TensorRule, WeightMap

OUTPUT_LAYER = "output_layer.weight"
EMBEDDING = "embedding.word_embeddings.weight"

View = Callable[[torch.nn.Parameter], torch.Tensor]


class ModelWeights:
    """This rank's parameters, and the buffers that belong to the weights, by their names in the weight map: one
    parameter holds all of a rank's experts. Making one is collective."""

    def __init__(self, model: PolicyModel, weight_map: WeightMap) -> None:
        self._map = weight_map
        self._params = {_global_name(model, name): param for name, param in model.named_parameters()}
        named = {_global_name(model, name): buffer for name, buffer in model.named_buffers()}
        self._buffers = {
            rule.megatron_name: named[rule.megatron_name]
            for rule in weight_map.rules
            if rule.keeps_dtype and rule.megatron_name in named
        }
        moe, experts = weight_map.architecture.experts, parallel_state.get_expert_model_parallel_group()
        self._num_experts = 0 if moe is None else moe.num_experts // experts.size()
        self._first_expert = self._num_experts * experts.rank()
        self._gathering = Gathering(self._find_stages(), self._num_experts)

    def mark_partitions(self) -> None:
        """Tell Megatron which parameters are cut over tensor-parallel ranks.

        It counts the others once in the gradient norm. Its layers leave the mark out when they are built without
        initial values, and the norm, with the clipping, is silently too small."""
        for rule in self._map.rules:
            for param in self._holders(rule, self._params):
                marked = getattr(
                    param, "tensor_model_parallel", False
                )  # biases and experts have it from the start
                if rule.partition != "replicated" and not marked:
                    set_tensor_model_parallel_attributes(
                        param,
                        is_parallel=True,
                        dim=1 if rule.partition == "columns" else 0,
                        stride=2 if rule.partition == "gated_rows" else 1,
                    )

    @torch.no_grad()
    def load_hf(self, directory: Path) -> None:
        """Take every local tensor from the safetensors files of a Hugging Face directory."""
        local = self._params | self._buffers
        with SafetensorsReader(directory) as reader:
            for rule in self._map.rules:
                holders = self._holders(rule, local)
                if not holders:
                    continue
                full = rule.merge([reader.tensor(source.name) for source in rule.hf])
                group = cutting_group(rule)
                shard = rule.shard(_pad_rows(rule, full, group.size()), group.rank(), group.size())
                for holder in holders:
                    self._part(rule, holder).copy_(shard)

    @torch.no_grad()
    def named_tensors(self, view: View | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        """Full tensors under their Hugging Face names, in the order of the weight map, on every rank.

        `view` picks what to show of every parameter instead of its values, something of its shape such as its
        gradient; buffers are left out then."""
        rules = self._map.rules
        local = {name: (view or torch.Tensor.detach)(param) for name, param in self._params.items()}
        like = next(iter(local.values()))
        if view is None:
            local |= self._buffers
        else:
            rules = tuple(rule for rule in rules if not rule.keeps_dtype)
        shards = {
            rule.megatron_name: self._part(rule, local[parameter_name(rule)])
            for rule in rules
            if self._is_here(rule, local)
        }
        for rule, full in self._gathering.whole(rules, shards, like):
            yield from rule.split(full)

    def _holders(self, rule: TensorRule, local: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Of a tensor: its parameter, and the last stage's copy of tied embeddings."""
        names = [parameter_name(rule)] if self._is_here(rule, local) else []
        if rule.megatron_name == EMBEDDING and self._map.architecture.tied_embeddings:
            names += [OUTPUT_LAYER] if OUTPUT_LAYER in local else []
        return [local[name] for name in names]

    def _is_here(self, rule: TensorRule, local: Mapping[str, torch.Tensor]) -> bool:
        if parameter_name(rule) not in local:
            return False
        return rule.expert is None or 0 <= rule.expert - self._first_expert < self._num_experts

    def _part(self, rule: TensorRule, holder: torch.Tensor) -> torch.Tensor:
        """The tensor in what holds it: all of it, or one expert's."""
        return holder if rule.expert is None else holder[rule.expert - self._first_expert]

    def _find_stages(self) -> dict[str, int]:
        """First pipeline stage that holds each parameter or buffer."""
        group = parallel_state.get_pipeline_model_parallel_group()
        stages: list[list[str]] = [[]] * group.size()
        mine = [*self._params, *self._buffers]
        dist.all_gather_object(stages, mine, group=group)
        found: dict[str, int] = {}
        for stage, names in enumerate(stages):
            for name in names:
                found.setdefault(name, stage)
        known = {parameter_name(rule) for rule in self._map.rules}
        if self._map.architecture.tied_embeddings:
            known.add(OUTPUT_LAYER)
        missing, unknown = sorted(known - found.keys() - {OUTPUT_LAYER}), sorted(set(mine) - known)
        if missing or unknown:
            raise ValueError(f"weight map and model differ: no parameters {missing}, no rules for {unknown}")
        return found


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
