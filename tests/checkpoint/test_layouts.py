"""Converted checkpoints, loaded by Megatron-core into its own models, compute what transformers computes."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore, convert_mcore_to_hf
from mindrl.checkpoint.training import save_checkpoint
from tests.checkpoint.hf_models import assert_same_bits, tensors_of, write_model
from tests.checkpoint.layout_cells import TOLERANCE, Case, Cell, grid, measure, write_case
from tests.checkpoint.layout_table import END, FAMILIES, PAGE, START, row_name
from tests.checkpoint.stock_config import Layout
from tests.checkpoint.stock_megatron import StockModel
from tests.distributed import run_distributed

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


@pytest.mark.parametrize(
    "layout",
    [
        Layout(tensor=2, expert=2),
        *(
            pytest.param(layout, marks=pytest.mark.slow)
            for layout in (Layout(expert=2), Layout(pipeline=2), Layout(pipeline=2, virtual=2))
        ),
    ],
    ids=str,
)
def test_layers_for_multi_token_prediction_come_back_from_megatron_bit_for_bit(
    tmp_path: Path, layout: Layout
):
    hf = write_model(tmp_path / "hf", "deepseek_v3", tied=False, mtp=1, num_hidden_layers=4)
    convert_hf_to_mcore(hf, tmp_path / "mcore", mtp="keep", progress=False)
    run_distributed(load_and_save, 2, tmp_path, layout)
    convert_mcore_to_hf(tmp_path / "saved", tmp_path / "back", mtp="keep", progress=False)
    assert_same_bits(tmp_path / "back", hf)


def load_and_save(folder: Path, layout: Layout) -> None:
    """From `mcore` into Megatron-core's model with these layers, and from there into `saved`."""
    model = StockModel(folder / "hf" / "config.json", layout)
    model.load(folder / "mcore" / "release")
    save_checkpoint(folder / "saved", 1, model.state(), folder / "hf")


def test_it_would_show_if_two_experts_changed_places(tmp_path: Path):
    folder = write_case(tmp_path, Case("qwen3_moe", False))
    tensors = tensors_of(folder / "hf")
    names = [f"model.layers.2.mlp.experts.{expert}.down_proj.weight" for expert in (1, 3)]
    for name, tensor in zip(names, [tensors[name] for name in reversed(names)], strict=True):
        tensors[name] = tensor
    save_file(tensors, folder / "hf" / "model.safetensors", metadata={"format": "pt"})
    convert_hf_to_mcore(folder / "hf", folder / "hf-mcore", overwrite=True, progress=False)
    errors = measure(folder, Cell(Case("qwen3_moe", False), 2, Layout(expert=2)))
    assert errors.logits > 100 * TOLERANCE
    assert errors.gradients > 100 * TOLERANCE


def test_the_table_of_the_docs_has_every_layout_measured_below_the_tolerance():
    lines = PAGE.read_text(encoding="utf-8").split(START)[1].split(END)[0].splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line[:3] in ("| 1", "| 2", "| 4")
    ]
    found = {
        (" | ".join(row[:3]), family)
        for row in rows
        for family, errors in zip(FAMILIES, row[3:], strict=True)
        if errors
    }
    assert found == {(row_name(cell.ranks, cell.layout, cell.layers), cell.case.family) for cell in grid()}
    measured = [float(error) for row in rows for errors in row[3:] if errors for error in errors.split(" / ")]
    assert 0 < max(measured) < TOLERANCE


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
