"""A plan that forgets or repeats a byte is caught before anything is copied."""

from dataclasses import replace
from pathlib import Path

import pytest

from mindrl.checkpoint.byte_plan import CopyPlan, OutputFile, Record, StoredTensor, Tile

SOURCE = StoredTensor("weight", Path("model.safetensors"), 100, (4, 6), "float32")
LEFT = Tile(SOURCE, 0, 0, 0, 0, 4, 2)
RIGHT = Tile(SOURCE, 0, 2, 0, 2, 4, 4)


def a_plan(*tiles: Tile, **changes) -> CopyPlan:
    record = Record("result", 10, 4, 6, "float32", tiles)
    file = OutputFile("out", 10 + 96, (record,), ((0, b"0123456789"),))
    return CopyPlan((SOURCE,), (replace(file, **changes),))


def test_tiles_that_fill_source_and_result_pass():
    a_plan(LEFT, RIGHT).check()
    a_plan(
        replace(LEFT, num_rows=1, num_columns=6),
        replace(LEFT, source_row=1, row=1, num_rows=3, num_columns=6),
    ).check()


@pytest.mark.parametrize(
    "tiles",
    [
        pytest.param([LEFT], id="gap in the result"),
        pytest.param([LEFT, RIGHT, RIGHT], id="written twice"),
        pytest.param([LEFT, replace(RIGHT, source_column=1)], id="overlap in the source"),
        pytest.param([LEFT, replace(RIGHT, source_row=1)], id="beyond the source"),
        pytest.param([replace(LEFT, row=1), replace(RIGHT, row=1)], id="beyond the result"),
    ],
)
def test_gaps_and_overlaps_are_caught(tiles):
    with pytest.raises(AssertionError):
        a_plan(*tiles).check()


def test_a_source_that_nothing_uses_is_caught_unless_it_is_dropped_by_name():
    padding = StoredTensor("padding", Path("model.safetensors"), 196, (2, 6), "float32")
    plan = replace(a_plan(LEFT, RIGHT), sources=(SOURCE, padding))
    with pytest.raises(AssertionError, match="forgets"):
        plan.check()
    replace(plan, dropped=(Tile(padding, 0, 0, 0, 0, 2, 6),)).check()


def test_a_file_with_a_byte_that_nothing_writes_is_caught():
    with pytest.raises(AssertionError, match=r"out: filled up to 106 of 107"):
        a_plan(LEFT, RIGHT, size=107).check()
    with pytest.raises(AssertionError, match=r"out: 9 to 10 not exactly once"):
        a_plan(LEFT, RIGHT, literals=((0, b"012345678"),)).check()
