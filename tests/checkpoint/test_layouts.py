"""Converted checkpoints, loaded by Megatron-core into its own models, compute what transformers computes."""

from pathlib import Path

import pytest

from tests.checkpoint.layout_cells import TOLERANCE, Case, Cell, grid, measure, write_case
from tests.checkpoint.stock_config import Layout

ONE_A_FAMILY = (
    Cell(Case("llama", False), 2, Layout(pipeline=2, virtual=2)),
    Cell(Case("qwen2", True), 2, Layout(pipeline=2), "mindrl"),
    Cell(Case("qwen3", True), 2, Layout(tensor=2, expert_tensor=2, sequence=True)),
    Cell(Case("qwen3_moe", False), 2, Layout(expert=2)),
    Cell(Case("moonlight", False), 2, Layout(pipeline=2), "mindrl"),
    Cell(Case("deepseek_v3", False), 2, Layout(tensor=2, expert=2, sequence=True)),
)
"""The others are `slow`."""


def check(folder: Path, cell: Cell) -> None:
    errors = measure(folder, cell)
    assert errors.logits < TOLERANCE
    assert errors.gradients < TOLERANCE, errors.worst


@pytest.mark.parametrize("cell", ONE_A_FAMILY, ids=str)
def test_logits_and_every_gradient_are_transformers(tmp_path: Path, cell: Cell):
    check(write_case(tmp_path, cell.case), cell)


@pytest.mark.slow
@pytest.mark.parametrize("cell", grid(), ids=str)
def test_logits_and_every_gradient_are_transformers_in_every_layout(
    cell: Cell, written: dict[Case, Path], tmp_path_factory: pytest.TempPathFactory
):
    if cell.case not in written:
        written[cell.case] = write_case(tmp_path_factory.mktemp("case"), cell.case)
    check(written[cell.case], cell)


@pytest.fixture(scope="module")
def written() -> dict[Case, Path]:
    """Cases that are there already."""
    return {}
