"""Checkpoints with bytes flipped or cut off: the plan of the true one, or a refusal; no other exception, no hang."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore
from mindrl.checkpoint.conversion.mcore_to_hf import HfPlan, plan_mcore_to_hf
from mindrl.checkpoint.formats.inert_pickle import DAMAGE, PLAIN, TENSORS, unpickled
from mindrl.checkpoint.plan_proof import prove
from mindrl.checkpoint.saved_weights import open_checkpoint
from mindrl.errors import RequestError
from mindrl.weight_maps import WeightMap, read_architecture, weight_map
from tests.checkpoint.hf_models import write_model
from tests.checkpoint.rank_files import Grid, write_rank_files

few = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
Damage = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Case:
    """A checkpoint, and what is planned for it as it is."""

    weights: WeightMap
    checkpoint: Path
    plan: HfPlan

    def outcome(self) -> HfPlan | None:
        """The plan, proved, or None where it is refused."""
        try:
            plan = planned(self.weights, self.checkpoint)
        except RequestError:
            return None
        prove(plan.copy)
        return plan


def planned(weights: WeightMap, checkpoint: Path) -> HfPlan:
    with open_checkpoint(checkpoint) as saved:
        return plan_mcore_to_hf(weights, saved, None)


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("stacked")
    hf = write_model(folder / "hf", "qwen3", tied=True)
    convert_hf_to_mcore(hf, folder / "mcore", progress=False)
    weights, release = weight_map(read_architecture(hf)), folder / "mcore/release"
    return Case(weights, release, planned(weights, release))


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("by_rank")
    hf = write_model(folder / "hf", "qwen3", tied=True)
    weights, ranks = weight_map(read_architecture(hf)), write_rank_files(hf, folder / "ranks", Grid(tensor=2))
    return Case(weights, ranks, planned(weights, ranks))


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """A few bits flipped, or the end cut off, at places anywhere in the data."""
    if draw(st.integers(0, 9)) == 0:
        kept = draw(st.floats(0, 1, exclude_max=True))
        return lambda data: data[: int(len(data) * kept)]
    flips = draw(
        st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4)
    )

    def flip(data: bytes) -> bytes:
        changed = bytearray(data)
        for place, mask in flips:
            changed[int(len(data) * place)] ^= mask
        return bytes(changed)

    return flip


def with_damage(case: Case, file: Path, data: bytes) -> HfPlan | None:
    original = file.read_bytes()
    try:
        file.write_bytes(data)
        return case.outcome()
    finally:
        file.write_bytes(original)


@few
@given(damage=damages())
def test_metadata_gives_the_same_plan_or_is_refused(stacked: Case, damage: Damage):
    file = stacked.checkpoint / ".metadata"
    assert with_damage(stacked, file, damage(file.read_bytes())) in (stacked.plan, None)


@few
@given(damage=damages())
def test_archives_of_weights_give_the_same_plan_or_are_refused(stacked: Case, damage: Damage):
    file = stacked.checkpoint / "__0_0.distcp"
    assert with_damage(stacked, file, damage(file.read_bytes())) in (stacked.plan, None)


@few
@given(damage=damages())
def test_rank_files_give_the_same_plan_or_are_refused(by_rank: Case, damage: Damage):
    file = by_rank.checkpoint / "mp_rank_01/model_optim_rng.pt"
    assert with_damage(by_rank, file, damage(file.read_bytes())) in (by_rank.plan, None)


@few
@given(damage=damages())
def test_a_damaged_description_whose_checksum_is_right_gives_a_true_plan_or_is_refused(
    by_rank: Case, damage: Damage
):
    file = by_rank.checkpoint / "mp_rank_01/model_optim_rng.pt"
    changed = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(changed, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry.filename, damage(data) if entry.filename.endswith("data.pkl") else data)
    with_damage(by_rank, file, changed.getvalue())


@settings(few, max_examples=300)
@given(data=st.binary(max_size=200), damage=damages())
def test_pickles_are_values_or_damage(stacked: Case, data: bytes, damage: Damage):
    for pickled in (data, damage((stacked.checkpoint / ".metadata").read_bytes())):
        try:
            unpickled(pickled, PLAIN | TENSORS)
        except DAMAGE:
            continue
