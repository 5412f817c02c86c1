"""Checkpoints with a file for each rank, made by hand from a Hugging Face directory: `TensorRule` cuts, nothing reads."""

import argparse
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hf_models import tensors_of

from mindrl.weight_maps import TensorRule, read_architecture, weight_map

State = dict[str, torch.Tensor]
EXPERT = re.compile(r"(.*\.experts\.)(\d+)\.(linear_fc[12])\.weight")


@dataclass(frozen=True)
class Grid:
    """How a model is spread over files."""

    tensor: int = 1
    expert: int = 1
    expert_tensor: int | None = None
    """None: as `tensor`."""
    stages: tuple[tuple[int, ...], ...] = ()
    """Layers of each pipeline stage, for each of its virtual stages; (): all in one stage."""


@dataclass(frozen=True)
class Save:
    """What else of a checkpoint is to be chosen."""

    rename: Callable[[str], str] = str
    """Of a rank's local names."""
    change: Callable[[State], State] = dict
    """Of a rank's weights."""
    content: dict[str, Any] = field(default_factory=dict)
    """Beside weights and settings, or instead."""


def write_rank_files(hf: Path, checkpoint: Path, grid: Grid, save: Save = Save()) -> Path:
    """Every rank's file."""
    weights = weight_map(read_architecture(hf))
    tensors = tensors_of(hf)
    full = {
        rule.megatron_name: rule.merge([tensors[source.name] for source in rule.hf]) for rule in weights.rules
    }
    stages = grid.stages or ((weights.architecture.num_layers,),)
    expert_tensor = grid.expert_tensor or grid.tensor
    for place, virtual in enumerate(stages):
        for rank in range(
            max(
                grid.tensor * (grid.expert if expert_tensor == grid.tensor else 1),
                grid.expert * expert_tensor,
            )
        ):
            tensor, expert = rank % grid.tensor, rank // expert_tensor % grid.expert
            chunks = [
                save.change(
                    {
                        save.rename(name): part.clone()
                        for rule in weights.rules
                        if (name := _local_name(rule, stages, place, number, grid, expert)) is not None
                        for part in [
                            _part(rule, full[rule.megatron_name], tensor, rank % expert_tensor, grid)
                        ]
                    }
                )
                for number in range(len(virtual))
            ]
            name = f"mp_rank_{tensor:02d}"
            name += f"_{place:03d}" if len(stages) > 1 else ""
            name += f"_{expert:03d}" if grid.expert > 1 else ""
            (checkpoint / name).mkdir(parents=True)
            torch.save(
                _content(chunks, grid, len(stages)) | save.content, checkpoint / name / "model_optim_rng.pt"
            )
    return checkpoint


def _part(rule: TensorRule, full: torch.Tensor, tensor: int, expert_tensor: int, grid: Grid) -> torch.Tensor:
    if rule.expert is not None:
        return rule.shard(full, expert_tensor, grid.expert_tensor or grid.tensor)
    if rule.pads_vocabulary:
        full = torch.cat([full, torch.full((-len(full) % grid.tensor, full.shape[1]), 9.0, dtype=full.dtype)])
    return rule.shard(full, tensor, grid.tensor)


def _local_name(
    rule: TensorRule, stages: tuple[tuple[int, ...], ...], place: int, number: int, grid: Grid, expert: int
) -> str | None:
    """The tensor's name in this stage, or None where it is in another one or with another rank's experts."""
    name = rule.megatron_name
    if name.startswith("embedding."):
        return name if (place, number) == (0, 0) else None
    if not name.startswith("decoder.layers."):
        return name if (place, number) == (len(stages) - 1, len(stages[-1]) - 1) else None
    first = 0
    for virtual in range(number + 1):
        for stage, counts in enumerate(stages):
            if (virtual, stage) == (number, place):
                break
            first += counts[virtual]
        else:
            continue
        break
    index, _, rest = name.removeprefix("decoder.layers.").partition(".")
    if not first <= int(index) < first + stages[place][number]:
        return None
    name = f"decoder.layers.{int(index) - first}.{rest}"
    if rule.expert is None:
        return name
    per_rank = rule.stacked_at[-1].size // grid.expert
    owner, local = divmod(rule.expert, per_rank)
    return EXPERT.sub(rf"\1local_experts.{local}.\3.weight", name) if owner == expert else None


def _content(chunks: list[State], grid: Grid, num_stages: int) -> dict[str, Any]:
    names = ["model"] if len(chunks) == 1 else [f"model{number}" for number in range(len(chunks))]
    return {
        "args": argparse.Namespace(
            tensor_model_parallel_size=grid.tensor,
            pipeline_model_parallel_size=num_stages,
            expert_model_parallel_size=grid.expert,
        ),
        "checkpoint_version": 3.0,
        "iteration": 7,
        **{name: OrderedDict(chunk) for name, chunk in zip(names, chunks, strict=True)},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3, 5)}}, "param_groups": [{"params": [0]}]},
    }
