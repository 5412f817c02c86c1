"""A converted directory is held against the checksums that the conversion left in it, without its source."""

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hf_models import write_model
from hypothesis import given
from hypothesis import strategies as st
from rank_files import Grid, write_rank_files

from mindrl.checkpoint.comparison.recorded import Verification, verify
from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore, convert_mcore_to_hf
from mindrl.checkpoint.conversion.manifest import MANIFEST_NAME
from mindrl.checkpoint.formats.safetensors_files import read_model
from mindrl.errors import RequestError

KINDS = ("mcore", "hf")


@cache
def results() -> Path:
    """A conversion there and back, in several files."""
    root = Path(mkdtemp(prefix="mindrl-recorded-"))
    convert_hf_to_mcore(write_model(root / "source", "qwen3_moe"), root / "mcore", progress=False)
    convert_mcore_to_hf(root / "mcore", root / "hf", max_file_bytes=40_000, progress=False)
    return root


@pytest.fixture(scope="module", autouse=True)
def _remove_results():
    yield
    shutil.rmtree(results())
    results.cache_clear()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    shutil.copytree(results(), tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_just_written_is_intact(kind: str):
    found = verify(results() / kind)
    assert found.damage == ()
    assert found.num_bytes > 100_000
    weights = [*(results() / kind).rglob("*.safetensors"), *(results() / kind).rglob("*.distcp")]
    assert found.num_files >= len(weights) >= 1
    assert found.num_bytes <= sum(path.stat().st_size for path in (results() / kind).rglob("*"))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_any_byte_of_weights_that_changes_is_found(data: st.DataObject, kind: str):
    paths = [*(results() / kind).rglob("*.safetensors"), *(results() / kind).rglob("*.distcp")]
    path = data.draw(st.sampled_from(sorted(paths)))
    before = path.read_bytes()
    byte, bit = data.draw(st.integers(0, len(before) - 1)), data.draw(st.integers(0, 7))
    try:
        path.write_bytes(before[:byte] + bytes([before[byte] ^ 1 << bit]) + before[byte + 1 :])
        damage = verify(results() / kind).damage
    finally:
        path.write_bytes(before)
    assert len(damage) == 1
    assert path.name in damage[0]


@pytest.mark.parametrize(
    "name",
    [
        "mcore/release/.metadata",
        "mcore/release/common.pt",
        "mcore/release/metadata.json",
        "hf/model.safetensors.index.json",
    ],
)
def test_a_changed_byte_of_what_describes_weights_is_found(place: Path, name: str):
    path = place / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    (sentence,) = verify(place / name.split("/")[0]).damage
    assert sentence.startswith(f"{path} is damaged: the whole file")


def test_a_damaged_tensor_is_named_with_its_bytes(place: Path):
    name = "model.layers.1.mlp.experts.2.down_proj.weight"
    stored = read_model(place / "hf")[name]
    data = bytearray(stored.path.read_bytes())
    data[stored.offset + 5] ^= 255
    stored.path.write_bytes(data)
    (sentence,) = verify(place / "hf").damage
    assert sentence == (
        f"{stored.path} is damaged: {name}, bytes {stored.offset} to {stored.offset + stored.num_bytes}, differs from "
        "its checksum."
    )


def test_a_part_of_a_checkpoint_is_named_and_so_is_what_describes_it(place: Path):
    manifest = json.loads((place / "mcore/release" / MANIFEST_NAME).read_text())
    path = place / "mcore/release/__0_0.distcp"
    name, (payload, _, _) = next(iter(manifest["files"][path.name]["records"].items()))
    whole = path.read_bytes()
    described = whole.rindex(b"torch._utils", 0, payload)
    for byte, told in ((payload, f"{name}, bytes {payload} to"), (described, "data.pkl in it differs")):
        path.write_bytes(whole[:byte] + bytes([whole[byte] ^ 1]) + whole[byte + 1 :])
        (sentence,) = verify(place / "mcore").damage
        assert sentence.startswith(f"{path} is damaged: ")
        assert told in sentence


def test_a_file_cut_off_or_gone_is_told_with_the_tensors_it_lacks(place: Path):
    first, second, *_ = sorted((place / "hf").glob("*.safetensors"))
    size = first.stat().st_size
    first.write_bytes(first.read_bytes()[:-10])
    second.unlink()
    cut_off, gone = verify(place / "hf").damage
    assert cut_off.startswith(
        f"{first} has {size - 10} bytes and was written with {size}; gone, or in part: model."
    )
    assert gone == f"{second} is missing."


def test_a_checkpoint_of_training_has_checksums_in_its_archives(place: Path):
    (place / "mcore/release" / MANIFEST_NAME).unlink()  # as `dist_checkpointing` would have written it
    assert verify(place / "mcore").damage == ()
    path = place / "mcore/release/__0_0.distcp"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found: Verification = verify(place / "mcore/release")
    assert len(found.damage) == 1
    assert "differs from its checksum" in found.damage[0]


def test_a_checkpoint_with_a_file_for_each_rank_has_checksums_too(tmp_path: Path):
    checkpoint = write_rank_files(write_model(tmp_path / "hf", "llama"), tmp_path / "mcore", Grid(tensor=2))
    found = verify(checkpoint)
    assert (found.damage, found.num_files) == ((), 2)
    path = max(checkpoint.rglob("*.pt"), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (sentence,) = verify(checkpoint).damage
    assert str(path) in sentence


def test_a_directory_without_checksums_is_refused(tmp_path: Path):
    hf = write_model(tmp_path / "hf", "llama")
    with pytest.raises(RequestError, match=rf"no {MANIFEST_NAME} in it.*--check A B"):
        verify(hf)
    with pytest.raises(RequestError, match="is not a directory"):
        verify(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        '{"files": []}',
        '{"files": {"../../secret": {"size": 1, "records": {}}}}',
        '{"files": {"x": {"size": -1, "records": {}}}}',
        '{"files": {"x": {"size": 1, "records": {"w": [0, 1]}}}}',
        '{"files": {"x": {"size": 1, "records": {"w": [0, true, 1]}}}}',
        '{"files": {}, "small_files": {"a/b": [1, 2]}}',
    ],
)
def test_a_list_of_checksums_that_makes_no_sense_is_refused(place: Path, content: str):
    (place / "hf" / MANIFEST_NAME).write_text(content)
    with pytest.raises(RequestError, match="no list of checksums that a conversion wrote"):
        verify(place / "hf")
