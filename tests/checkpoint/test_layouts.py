"""Converted checkpoints, loaded by Megatron-core into its own models, compute what transformers computes."""

from pathlib import Path

import pytest

from tests.checkpoint.layout_cells import TOLERANCE, Case, Layout, grid, measure, write_case

ONE_A_FAMILY = {
    Case("llama", False): Layout(pipeline=2, virtual=2),
    Case("qwen2", True): Layout(pipeline=2),
    Case("qwen3", True): Layout(tensor=2, expert_tensor=2, sequence=True),
    Case("qwen3_moe", False): Layout(expert=2),
    Case("moonlight", False): Layout(pipeline=2, virtual=2),
    Case("deepseek_v3", False): Layout(tensor=2, expert=2, sequence=True),
}
"""On two ranks; `slow` has all."""


def check(folder: Path, ranks: int, layout: Layout) -> None:
    errors = measure(folder, ranks, layout)
    assert errors.logits < TOLERANCE
    assert errors.gradients < TOLERANCE, errors.worst


@pytest.mark.parametrize(("case", "layout"), ONE_A_FAMILY.items(), ids=str)
def test_logits_and_every_gradient_are_transformers(tmp_path: Path, case: Case, layout: Layout):
    check(write_case(tmp_path, case), 2, layout)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "ranks", "layout"), grid(), ids=str)
def test_logits_and_every_gradient_are_transformers_in_every_layout(
    case: Case, ranks: int, layout: Layout, written: dict[Case, Path], tmp_path_factory
):
    if case not in written:
        written[case] = write_case(tmp_path_factory.mktemp("case"), case)
    check(written[case], ranks, layout)


@pytest.fixture(scope="module")
def written() -> dict[Case, Path]:
    """Cases that are there already."""
    return {}
