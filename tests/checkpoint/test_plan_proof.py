"""A plan that forgets, repeats or misplaces a byte is caught before anything is copied."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hf_models import FAMILIES, write_model
from hypothesis import given
from hypothesis import strategies as st

from mindrl.checkpoint.byte_plan import CopyPlan, OutputFile, Record, StoredTensor, Tile
from mindrl.checkpoint.conversion import engine
from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore, convert_mcore_to_hf
from mindrl.checkpoint.plan_proof import PlanError, prove

SOURCE = StoredTensor("weight", Path("model.safetensors"), 100, (4, 6), "float32")
LEFT = Tile(SOURCE, 0, 0, 0, 0, 4, 2)
RIGHT = Tile(SOURCE, 0, 2, 0, 2, 4, 4)
RECORD = Record("result", 10, 4, 6, "float32", (LEFT, RIGHT))
FILE = OutputFile("out", 10 + 96, (RECORD,), ((0, b"0123456789"),))


def plan_of(*tiles: Tile) -> CopyPlan:
    return CopyPlan((SOURCE,), (replace(FILE, records=(replace(RECORD, tiles=tiles),)),))


def with_file(**changes: Any) -> CopyPlan:
    return CopyPlan((SOURCE,), (replace(FILE, **changes),))


def test_tiles_that_fill_source_and_result_pass():
    prove(plan_of(LEFT, RIGHT))
    top = replace(LEFT, num_rows=1, num_columns=6)
    prove(plan_of(top, replace(top, source_row=1, row=1, num_rows=3)))


@pytest.mark.parametrize(
    "tiles",
    {
        "gap in the result": (LEFT,),
        "written twice": (LEFT, RIGHT, RIGHT),
        "nothing at all": (),
        "a column of the source twice": (LEFT, replace(RIGHT, source_column=1)),
        "a row of the source that it has not": (LEFT, replace(RIGHT, source_row=1)),
        "a row before the source": (LEFT, replace(RIGHT, source_row=-1)),
        "beyond the result": (replace(LEFT, row=1), replace(RIGHT, row=1)),
        "one row short": (LEFT, replace(RIGHT, num_rows=3)),
        "one column too many": (LEFT, replace(RIGHT, num_columns=5)),
        "overlap by a column": (replace(LEFT, num_columns=3), RIGHT),
        "there and back": (LEFT, RIGHT, replace(RIGHT, row=4, source_row=4, num_rows=-1)),
        "an empty tile": (LEFT, RIGHT, replace(RIGHT, num_columns=0, column=6, source_column=6)),
        "another source": (LEFT, replace(RIGHT, source=replace(SOURCE, name="other", offset=196))),
    }.values(),
)
def test_gaps_and_overlaps_of_tiles_are_caught(tiles: tuple[Tile, ...]):
    with pytest.raises(PlanError):
        prove(plan_of(*tiles))


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (with_file(size=107), "out: filled up to 106 of 107"),
        (with_file(size=105), "out: filled up to 106 of 105"),
        (with_file(literals=((0, b"012345678"),)), "out: 9 to 10 not exactly once"),
        (with_file(literals=((0, b"0123456789"), (9, b"x"))), "out: 9 to 10 not exactly once"),
        (with_file(literals=((0, b"0123456789"), (106, b"x"))), "out: filled up to 107 of 106"),
        (with_file(literals=()), "out: 0 to 10 not exactly once"),
        (with_file(records=(replace(RECORD, offset=11),)), "out: 10 to 11 not exactly once"),
        (with_file(records=(RECORD, RECORD)), "result: twice"),
        (CopyPlan((SOURCE,), (FILE, FILE)), "twice in the plan"),
        (CopyPlan((), (FILE,)), "weight: a tensor that the plan forgets or does not know"),
        (CopyPlan((SOURCE,), ()), "weight: a tensor that the plan forgets or does not know"),
    ],
)
def test_bytes_of_files_that_are_not_written_exactly_once_are_caught(plan: CopyPlan, told: str):
    with pytest.raises(PlanError, match=told):
        prove(plan)


def test_a_source_that_nothing_uses_is_caught_unless_it_is_dropped_by_name():
    padding = StoredTensor("padding", Path("model.safetensors"), 196, (2, 6), "float32")
    plan = replace(plan_of(LEFT, RIGHT), sources=(SOURCE, padding))
    with pytest.raises(PlanError, match="padding: a tensor that the plan forgets"):
        prove(plan)
    prove(replace(plan, dropped=(Tile(padding, 0, 0, 0, 0, 2, 6),)))
    with pytest.raises(PlanError, match="padding: rows end at 1 of 2"):
        prove(replace(plan, dropped=(Tile(padding, 0, 0, 0, 0, 1, 6),)))


def test_sources_that_share_a_byte_are_caught():
    near = StoredTensor("near", SOURCE.path, 195, (2, 6), "float32")
    plan = replace(plan_of(LEFT, RIGHT), sources=(SOURCE, near), dropped=(Tile(near, 0, 0, 0, 0, 2, 6),))
    with pytest.raises(PlanError, match="weight and near share bytes 195 to 196"):
        prove(plan)
    scales = StoredTensor("scales", SOURCE.path, 99, (1, 1), "float32")
    scaled = replace(SOURCE, scales=scales)
    with pytest.raises(PlanError, match="scales and weight share bytes"):
        prove(CopyPlan((scaled,), plan_of(replace(LEFT, source=scaled), replace(RIGHT, source=scaled)).files))


def test_a_record_may_repeat_another_one_value_for_value():
    again = replace(RECORD, name="result under another key", offset=106, same_as="result")

    def both(second: Record) -> CopyPlan:
        return with_file(size=10 + 2 * 96, records=(RECORD, second))

    prove(both(again))
    halves = (replace(LEFT, num_rows=2, num_columns=6), replace(LEFT, row=2, num_rows=2, num_columns=6))
    with pytest.raises(PlanError, match="should repeat result, and is made of other values"):
        prove(both(replace(again, tiles=halves)))
    with pytest.raises(PlanError, match="repeats nothing, which the plan does not write"):
        prove(both(replace(again, same_as="nothing")))
    with pytest.raises(PlanError, match="repeats result under another key, which"):
        prove(both(replace(again, same_as="result under another key")))


def test_an_optimised_python_proves_it_all_the_same():
    program = (
        "from mindrl.checkpoint.byte_plan import *; from mindrl.checkpoint.plan_proof import *; from pathlib import Path\n"
        "prove(CopyPlan((StoredTensor('weight', Path('x'), 0, (1, 1), 'float32'),), ()))"
    )
    done = subprocess.run([sys.executable, "-O", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "PlanError: weight: a tensor that the plan forgets" in done.stderr


@cache
def true_plans(family: str) -> tuple[CopyPlan, CopyPlan]:
    """The plans of a conversion there and back, as they are handed to the proof."""
    plans: list[CopyPlan] = []
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        root = Path(directory)
        patch.setattr(engine, "prove", plans.append)
        convert_hf_to_mcore(
            write_model(root / "hf", family), root / "mcore", tensor_parallel_size=2, progress=False
        )
        convert_mcore_to_hf(root / "mcore", root / "back", max_file_bytes=20_000, progress=False)
    there, back = plans
    return there, back


Draw = Callable[[Any], Any]


def mutate_tile(draw: Draw, tile: Tile) -> tuple[Tile, ...]:
    """Nothing, twice, moved, or of another size."""
    field = draw(
        st.sampled_from(
            ["gone", "twice", "source_row", "source_column", "row", "column", "num_rows", "num_columns"]
        )
    )
    if field == "gone":
        return ()
    if field == "twice":
        return (tile, tile)
    return (replace(tile, **{field: getattr(tile, field) + draw(st.sampled_from([-2, -1, 1, 2]))}),)


def mutate_record(draw: Draw, record: Record) -> tuple[Record, ...]:
    """Nothing, twice, moved, of another shape or type, or with one tile changed."""
    field = draw(
        st.sampled_from(["gone", "twice", "offset", "rows", "columns", "dtype", "tile", "tile", "tile"])
    )
    if field == "gone":
        return ()
    if field == "twice":
        return (record, record)
    if field == "dtype":
        return (replace(record, dtype="float16"),)
    if field != "tile":
        return (replace(record, **{field: getattr(record, field) + draw(st.sampled_from([-1, 1]))}),)
    tiles = list(record.tiles)
    at = draw(st.integers(0, len(tiles) - 1))
    tiles[at : at + 1] = mutate_tile(draw, tiles[at])
    return (replace(record, tiles=tuple(tiles)),)


def mutate_file(draw: Draw, file: OutputFile) -> tuple[OutputFile, ...]:
    """Nothing, twice, of another size, or with a record or a literal changed."""
    fields = ["gone", "twice", "size", *(["literal"] if file.literals else []), *["record"] * 4]
    field = draw(st.sampled_from(fields))
    if field == "gone":
        return ()
    if field == "twice":
        return (file, file)
    if field == "size":
        return (replace(file, size=file.size + draw(st.sampled_from([-1, 1]))),)
    if field == "literal":
        literals = list(file.literals)
        at = draw(st.integers(0, len(literals) - 1))
        offset, data = literals[at]
        literals[at : at + 1] = draw(
            st.sampled_from(
                [[], [literals[at]] * 2, [(offset + 1, data)], [(offset, data[:-1])], [(offset, data + b"x")]]
            )
        )
        return (replace(file, literals=tuple(literals)),)
    records = list(file.records)
    at = draw(st.integers(0, len(records) - 1))
    records[at : at + 1] = mutate_record(draw, records[at])
    return (replace(file, records=tuple(records)),)


def mutate(draw: Draw, plan: CopyPlan) -> CopyPlan:
    """One change anywhere."""
    if draw(st.integers(0, 9)) == 0:
        sources = list(plan.sources)
        at = draw(st.integers(0, len(sources) - 1))
        shifted = replace(sources[at], offset=sources[at].offset + 1)
        sources[at : at + 1] = draw(st.sampled_from([[], [shifted]]))
        return replace(plan, sources=tuple(sources))
    files = list(plan.files)
    at = draw(st.integers(0, len(files) - 1))
    files[at : at + 1] = mutate_file(draw, files[at])
    return replace(plan, files=tuple(files))


@pytest.mark.parametrize("family", sorted(FAMILIES))
@given(data=st.data())
def test_a_random_change_to_a_true_plan_is_always_caught(family: str, data: st.DataObject):
    plan = data.draw(st.sampled_from(true_plans(family)))
    changed = mutate(data.draw, plan)
    with pytest.raises(PlanError):
        prove(changed)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_true_plans_pass(family: str):
    for plan in true_plans(family):
        prove(plan)
