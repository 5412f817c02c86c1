"""The ranks whose files a checkpoint has, and the layers that each of their stages holds."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mindrl.checkpoint.formats.rank_files import RankFile, Weights, find_rank_files, read_rank_file
from mindrl.errors import RequestError

LAYER = re.compile(r"decoder\.layers\.(\d+)\.")
_EXPERTS = re.compile(
    r"(?P<home>.*\.experts\.)(?:local_experts\.(?P<a>\d+)\.(?P<b>linear_fc[12])\.weight"
    r"|(?P<c>linear_fc[12])\.weight(?P<d>\d+)|weight[12])"
)
_LAST = "decoder.final_layernorm.weight"
_SIZES = {
    "tensor": "tensor_model_parallel_size",
    "pipeline": "pipeline_model_parallel_size",
    "expert": "expert_model_parallel_size",
}


class LocalExpert(NamedTuple):
    """What the name of a routed expert's matrix says."""

    home: str
    """As in `decoder.layers.0.mlp.experts.`"""
    number: int
    """Among the rank's experts; -1 where the matrix is of all of them."""
    matrix: str
    """`linear_fc1` or `linear_fc2`; empty where the matrix is of all."""


def expert_of(name: str) -> LocalExpert | None:
    """How Megatron's three modules for experts name their weights: `local_experts.3.linear_fc1.weight`,
    `linear_fc1.weight3`, and `weight1`."""
    match = _EXPERTS.fullmatch(name) if ".experts." in name else None
    if match is None:
        return None
    number = match["a"] or match["d"]
    return LocalExpert(match["home"], int(number) if number else -1, match["b"] or match["c"] or "")


@dataclass(frozen=True, slots=True)
class Rank:
    """Coordinates of a rank; (tensor, expert) are not all there where experts are cut otherwise than the rest."""

    tensor: int
    pipeline: int
    expert: int


@dataclass(frozen=True)
class Stage:
    """A run of layers that one pipeline stage, or one virtual stage of it, holds."""

    first_layer: int
    num_layers: int
    experts_per_rank: int
    """Of each of its layers that has any; 0 where they are one matrix together."""
    weights: Mapping[tuple[int, int], Weights]
    """By tensor-parallel and expert-parallel rank, in this order."""

    def any_names(self) -> Weights:
        """Of one of its ranks."""
        return next(iter(self.weights.values()))


@dataclass(frozen=True)
class RankGrid:
    """All files of a checkpoint."""

    tensor_size: int
    expert_size: int
    stages: tuple[Stage, ...]
    """In the order in which a forward pass goes through them."""


def read_grid(checkpoint: Path) -> RankGrid:
    """Read every rank's file; `RequestError` where one is missing or does not go with the others."""
    paths = find_rank_files(checkpoint)
    files = [read_rank_file(path, numbers) for numbers, path in paths.items()]
    _check_same_save(files)
    ranks = _coordinates(files)
    tensor, pipeline, expert = _sizes(checkpoint, ranks)
    num_chunks = len(files[0].chunks)
    stages: list[Stage] = []
    first_layer = 0
    for chunk in range(num_chunks):
        for place in range(pipeline):
            own = {rank: file for rank, file in ranks.items() if rank.pipeline == place}
            num_layers, num_experts = _count_layers(own, chunk), _count_experts(own, chunk)
            weights = {
                (rank.tensor, rank.expert): own[rank].chunks[chunk]
                for rank in sorted(own, key=lambda rank: (rank.tensor, rank.expert))
            }
            stages.append(Stage(first_layer, num_layers, num_experts, weights))
            first_layer += num_layers
    return RankGrid(tensor, expert, tuple(stages))


def _check_same_save(files: list[RankFile]) -> None:
    first = files[0]
    for file in files:
        if file.iteration != first.iteration:
            raise RequestError(
                f"{first.path} is of iteration {first.iteration}, {file.path} of {file.iteration}: they are of two "
                "checkpoints. Copy one of them again."
            )
        if len(file.chunks) != len(first.chunks):
            raise RequestError(
                f"{first.path} holds {len(first.chunks)} virtual stages, {file.path} holds {len(file.chunks)}: they "
                "are of two checkpoints. Copy one of them again."
            )


def _coordinates(files: list[RankFile]) -> dict[Rank, RankFile]:
    """Of two numbers, the second is a pipeline stage's, or with one stage an expert-parallel rank's."""
    whole_model_first = any(
        _LAST in chunk for file in files if file.numbers[1:2] == (0,) for chunk in file.chunks
    )
    ranks: dict[Rank, RankFile] = {}
    for file in files:
        numbers = file.numbers
        if len(numbers) == 2:
            numbers = (numbers[0], 0, numbers[1]) if whole_model_first else (*numbers, 0)
        ranks[Rank(*(*numbers, 0, 0)[:3])] = file
    return ranks


def _sizes(checkpoint: Path, ranks: Mapping[Rank, RankFile]) -> tuple[int, int, int]:
    """Tensor, pipeline and expert sizes: as many as there are files for, and as many as the run had."""
    files = list(ranks.values())
    sizes: list[int] = []
    for axis, setting in _SIZES.items():
        there = {getattr(rank, axis) for rank in ranks}
        said = {size for file in files if (size := file.size(setting)) is not None}
        size = max(there) + 1
        if there != set(range(size)) or (said and said != {size}):
            wanted = max(said, default=size)
            missing = sorted(set(range(wanted)) - there)
            raise RequestError(
                f"{checkpoint} was saved with {setting} {', '.join(map(str, sorted(said))) or size}, and has files of "
                f"{axis} rank {', '.join(map(str, sorted(there)))}"
                + (f", not of {', '.join(map(str, missing[:8]))}" if missing else "")
                + ". Copy the checkpoint again."
            )
        sizes.append(size)
    for stage in range(sizes[1]):
        for axis, size in (("tensor", sizes[0]), ("expert", sizes[2])):
            there = {getattr(rank, axis) for rank in ranks if rank.pipeline == stage}
            if missing := sorted(set(range(size)) - there):
                raise RequestError(
                    f"{checkpoint} has no file of {axis} rank {missing[0]} in pipeline stage {stage}. Copy the "
                    "checkpoint again."
                )
    return sizes[0], sizes[1], sizes[2]


def _count_layers(files: Mapping[Rank, RankFile], chunk: int) -> int:
    counts: dict[int, Path] = {}
    for file in files.values():
        layers = {int(match[1]) for name in file.chunks[chunk] if (match := LAYER.match(name))}
        if layers != set(range(len(layers))):
            missing = min(set(range(max(layers))) - layers)
            raise RequestError(
                f"{file.path} lacks layer {missing} of {max(layers) + 1}. Copy the checkpoint again."
            )
        counts[len(layers)] = file.path
    if len(counts) > 1:
        (few, path), (many, other), *_ = sorted(counts.items())
        raise RequestError(
            f"{path} holds {few} layers, {other} of the same pipeline stage {many}: they are of two checkpoints."
        )
    return next(iter(counts))


def _count_experts(files: Mapping[Rank, RankFile], chunk: int) -> int:
    counts: dict[int, Path] = {}
    for file in files.values():
        homes: dict[str, int] = {}
        for name in file.chunks[chunk]:
            if expert := expert_of(name):
                homes[expert.home] = max(homes.get(expert.home, 0), expert.number + 1)
        counts |= dict.fromkeys(homes.values(), file.path)
    if len(counts) > 1:
        (few, path), (many, other), *_ = sorted(counts.items())
        raise RequestError(
            f"{path} holds {few} experts in a layer, {other} holds {many}: they are of two checkpoints."
        )
    return next(iter(counts), 0)
