"""The proof's grid: converted checkpoints in every layout of Megatron's ranks that fits, beside transformers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state
from transformers import AutoModelForCausalLM

from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore
from tests.checkpoint.hf_models import YARN, write_model
from tests.checkpoint.our_megatron import OurModel
from tests.checkpoint.stock_config import Layout
from tests.checkpoint.stock_megatron import LENGTH, NUM_ROWS, StockModel
from tests.distributed import run_distributed

TOLERANCE = 1e-5
SIZES: dict[str, Any] = {"num_hidden_layers": 4, "num_attention_heads": 8, "vocab_size": 61}
GROUPED_QUERIES: dict[str, Any] = {"num_key_value_heads": 4, "head_dim": 12}
LATENT_ATTENTION: dict[str, Any] = {"num_key_value_heads": 8}
SEED = 3


@dataclass(frozen=True)
class Case:
    """A model of the grid."""

    family: str
    tied: bool
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    """Of config.json, beyond the sizes that all cases share."""

    def __str__(self) -> str:
        kind = "tied" if self.tied else "untied"
        return f"{self.family}-{kind}" + "".join(f"-{name}" for name in self.settings)

    @property
    def has_experts(self) -> bool:
        return self.family in ("qwen3_moe", "deepseek_v3", "moonlight")


CASES = (
    *(
        Case(family, tied)
        for family in ("llama", "qwen2", "qwen3", "qwen3_moe", "moonlight", "deepseek_v3")
        for tied in (True, False)
    ),
    Case("qwen3_moe", False, {"mlp_only_layers": [1]}),
    Case("deepseek_v3", False, {"rope_parameters": YARN}),
)
TRAINED = tuple(
    case
    for case in CASES
    if case.tied == (case.family == "qwen2") and (case.settings or case.family != "deepseek_v3")
)
"""Those that the project's own layers are measured with: small Qwen2 models are tied."""

LAYOUTS: tuple[tuple[int, Layout], ...] = (
    (1, Layout()),
    (2, Layout()),
    (2, Layout(tensor=2)),
    (2, Layout(tensor=2, expert_tensor=2, sequence=True)),
    (2, Layout(pipeline=2)),
    (2, Layout(pipeline=2, virtual=2)),
    (2, Layout(expert=2)),
    (2, Layout(tensor=2, expert=2, sequence=True)),
    (4, Layout(tensor=4)),
    (4, Layout(tensor=4, expert_tensor=4, sequence=True)),
    (4, Layout(pipeline=4)),
    (4, Layout(tensor=2, pipeline=2)),
    (4, Layout(tensor=2, expert_tensor=2, pipeline=2, sequence=True)),
    (4, Layout(tensor=2, expert_tensor=2, pipeline=2, virtual=2, sequence=True)),
    (4, Layout(expert=2)),
    (4, Layout(expert=4)),
    (4, Layout(pipeline=2, expert=2)),
    (4, Layout(pipeline=2, virtual=2, expert=2)),
    (4, Layout(tensor=2, expert=2, pipeline=2, sequence=True)),
    (4, Layout(tensor=2, expert=4, sequence=True)),
    (4, Layout(tensor=2, expert=2, expert_tensor=2, sequence=True)),
    (4, Layout(expert=2, expert_tensor=2)),
)
"""Number of ranks, and how a model lies on them. Without expert parallelism the experts' tensor-parallel size has to be
the other layers': Megatron-core 0.16.1 adds up experts' gradients over the wrong ranks otherwise."""


def fits(case: Case, layout: Layout) -> bool:
    """Megatron trains experts on several tensor-parallel ranks with sequence parallelism only."""
    if case.has_experts:
        return layout.sequence or layout.tensor == 1
    return layout.expert == 1


MODELS: dict[str, type[StockModel]] = {"Megatron-core": StockModel, "mindrl": OurModel}
"""Whose layers: Megatron-core's without TransformerEngine, or those that the project trains."""


@dataclass(frozen=True)
class Cell:
    """One measurement."""

    case: Case
    ranks: int
    layout: Layout
    layers: str = "Megatron-core"
    """One of `MODELS`."""

    def __str__(self) -> str:
        return f"{self.case}, {self.ranks} ranks, {self.layout}, {self.layers}"


def grid() -> Iterator[Cell]:
    """Every cell."""
    for case in CASES:
        for ranks, layout in LAYOUTS:
            if fits(case, layout):
                yield Cell(case, ranks, layout)
    for case in TRAINED:
        for ranks, layout in LAYOUTS:
            if fits(case, layout) and is_trained(case, layout):
                yield Cell(case, ranks, layout, "mindrl")


def is_trained(case: Case, layout: Layout) -> bool:
    """Whether the project's backend has this layout: experts are cut as everything else is."""
    return layout.virtual == 1 and (layout.expert_tensor == layout.tensor or not case.has_experts)


@dataclass(frozen=True)
class Errors:
    """Largest max|ours - theirs| / max|theirs| over logits, and over every parameter's gradient."""

    logits: float
    gradients: float
    worst: str
    """The parameter with that gradient."""


def write_case(folder: Path, case: Case) -> Path:
    """A model as Hugging Face files and as a converted checkpoint, and what transformers makes of it: logits, and
    gradients as a checkpoint of their own, which is cut over ranks as the weights are."""
    attention = LATENT_ATTENTION if case.family in ("deepseek_v3", "moonlight") else GROUPED_QUERIES
    write_model(folder / "hf", case.family, tied=case.tied, **(SIZES | attention | case.settings))
    model = AutoModelForCausalLM.from_pretrained(folder / "hf", attn_implementation="eager")
    rows = token_rows()
    logits = model(rows[:, :-1]).logits
    F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).backward()
    torch.save(logits.detach(), folder / "logits.pt")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.grad)
    model.save_pretrained(folder / "gradients")
    for kind in ("hf", "gradients"):
        convert_hf_to_mcore(folder / kind, folder / f"{kind}-mcore", progress=False)
    return folder


def token_rows() -> torch.Tensor:
    """[NUM_ROWS, LENGTH + 1]: inputs, and one later the targets."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(0, SIZES["vocab_size"], (NUM_ROWS, LENGTH + 1), generator=generator)


def measure(folder: Path, cell: Cell, *, timeout: float = 300) -> Errors:
    """The worst that any rank finds."""
    found = run_distributed(errors_of_rank, cell.ranks, folder, cell.layout, cell.layers, timeout=timeout)
    logits = [errors.logits for errors in found if errors.logits is not None]
    worst = max(found, key=lambda errors: errors.gradients)
    return Errors(max(logits), worst.gradients, worst.worst)


@dataclass(frozen=True)
class RankErrors:
    """`Errors` of a rank's part; logits are None before the last pipeline stage."""

    logits: float | None
    gradients: float
    worst: str


def errors_of_rank(folder: Path, layout: Layout, layers: str) -> RankErrors:
    """Load, pass forwards and backwards, compare; collective."""
    model = MODELS[layers](folder / "hf" / "config.json", layout)
    model.load(folder / "hf-mcore" / "release")
    logits, gradients = model.logits_and_gradients(token_rows())
    expected = model.read(folder / "gradients-mcore" / "release")
    of_gradients, worst = max(
        (_error(name, found, wanted[name]), name)
        for part, wanted in zip(gradients, expected, strict=True)
        for name, found in part.items()
    )
    return RankErrors(_error_of_logits(folder, logits), of_gradients, worst)


def _error_of_logits(folder: Path, logits: torch.Tensor | None) -> float | None:
    if logits is None:
        return None
    whole = torch.load(folder / "logits.pt")
    size = parallel_state.get_data_parallel_world_size()
    mine = whole.chunk(size)[parallel_state.get_data_parallel_rank()]
    return _finite(((logits - mine).abs().max() / whole.abs().max()).item())


def _error(name: str, found: torch.Tensor, expected: torch.Tensor) -> float:
    """Against the largest value of the whole tensor, of which other tensor-parallel ranks have parts."""
    group = (
        parallel_state.get_expert_tensor_parallel_group()
        if ".experts." in name
        else parallel_state.get_tensor_model_parallel_group()
    )
    largest = expected.abs().max()
    dist.all_reduce(largest, dist.ReduceOp.MAX, group)
    difference = (found - expected).abs().max()
    return 0.0 if difference == 0 else _finite((difference / largest).item())


def _finite(error: float) -> float:
    """Not a number counts as infinitely wrong, so that `max` finds it."""
    return error if error == error else float("inf")
