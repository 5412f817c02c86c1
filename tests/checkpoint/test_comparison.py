"""Two sets of weights are found equal only if they are, and what differs is named with its place."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from fp8_models import write_fp8_model
from hf_models import FAMILIES, tensors_of, write_model
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mindrl.checkpoint.comparison import compare as compare_module
from mindrl.checkpoint.comparison.compare import Comparison, compare
from mindrl.checkpoint.conversion import hf_to_mcore
from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore, convert_mcore_to_hf
from mindrl.checkpoint.formats.safetensors_files import read_model
from mindrl.errors import RequestError

NAME = "model.layers.1.self_attn.q_proj.weight"


def to_mcore(hf: Path, mcore: Path, **options: object) -> Path:
    convert_hf_to_mcore(hf, mcore, progress=False, **options)
    return mcore


def change(hf: Path, changed: Callable[[dict[str, torch.Tensor]], object], target: Path) -> Path:
    """A copy of a Hugging Face directory with other tensors."""
    shutil.copytree(hf, target)
    tensors = tensors_of(hf)
    changed(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def flip_bit(path: Path, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)


def describe(found: Comparison) -> tuple[list[str], list[str], list[str]]:
    return [d.name for d in found.different], list(found.only_left), list(found.only_right)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_source_and_result_are_equal_in_every_direction(tmp_path: Path, family: str, tied: bool):
    hf = write_model(tmp_path / "hf", family, tied=tied, dtype=torch.bfloat16, max_shard_size="20KB")
    mcore = to_mcore(hf, tmp_path / "mcore")
    parts = to_mcore(hf, tmp_path / "parts", tensor_parallel_size=2)
    convert_mcore_to_hf(parts, tmp_path / "back", progress=False)
    for left, right in (
        (hf, mcore),
        (mcore, hf),
        (mcore, parts / "release"),
        (parts, tmp_path / "back"),
        (hf, hf),
    ):
        found = compare(left, right)
        assert found.equal
        assert found.num_equal == len(tensors_of(hf))
        assert found.num_bytes == sum(tensor.nbytes for tensor in tensors_of(hf).values())
        assert not found.converted
        assert not found.notes


def test_one_bit_is_found_on_either_side_with_its_place_in_both_files(tmp_path: Path):
    hf = write_model(tmp_path / "hf", "qwen2", dtype=torch.float32)
    mcore = to_mcore(hf, tmp_path / "mcore", tensor_parallel_size=2)
    stored = read_model(hf)[NAME]
    index = (17, 9)
    byte = stored.offset + 4 * (index[0] * stored.columns + index[1])
    before = float(tensors_of(hf)[NAME][index])
    flip_bit(stored.path, byte)
    after = float(tensors_of(hf)[NAME][index])
    found = compare(hf, mcore)
    assert describe(found) == ([NAME], [], [])
    (difference,) = found.different
    assert difference.index == index
    assert difference.num_different == 1
    assert difference.max_abs == abs(after - before)
    left, right = difference.first
    assert (left.value, left.path, left.byte) == (after, stored.path, byte)
    assert right.value == before
    in_file = np.frombuffer(right.path.read_bytes()[right.byte :][:4], np.float32)[0]
    assert in_file == np.float32(before), "the place named in the checkpoint holds the value"
    flip_bit(right.path, right.byte)
    assert compare(hf, mcore).equal, "the same bit flipped there makes them equal again"


@cache
def converted(family: str) -> Path:
    """A model and its checkpoint, made once."""
    root = Path(mkdtemp(prefix="mindrl-comparison-"))
    write_model(root / "hf", family, tied=False, dtype=torch.bfloat16)
    return to_mcore(root / "hf", root / "mcore", tensor_parallel_size=2).parent


@pytest.fixture(scope="module", autouse=True)
def _remove_converted():
    yield
    for family in FAMILIES:
        shutil.rmtree(converted(family))
    converted.cache_clear()


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8)
@given(data=st.data())
def test_any_value_that_changes_is_found_where_it_is(family: str, data: st.DataObject):
    root = converted(family)
    stored = data.draw(
        st.sampled_from(sorted(read_model(root / "hf").values(), key=lambda tensor: tensor.name))
    )
    index = tuple(data.draw(st.integers(0, size - 1)) for size in stored.shape)
    byte = stored.offset + 2 * int(np.ravel_multi_index(index, stored.shape))
    flip_bit(stored.path, byte)
    try:
        found = compare(root / "mcore", root / "hf")
    finally:
        flip_bit(stored.path, byte)
    (difference,) = found.different
    assert (difference.name, difference.index, difference.num_different) == (stored.name, index, 1)
    assert difference.first[1].byte == byte


def test_pieces_smaller_than_a_row_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hf = write_model(tmp_path / "hf", "qwen3_moe")
    mcore = to_mcore(hf, tmp_path / "mcore")

    def noise(tensors: dict[str, torch.Tensor]) -> None:
        tensors[NAME][3:7] += 0.25
        tensors[NAME][60, 1] = math.inf

    other = change(hf, noise, tmp_path / "other")
    whole = compare(other, mcore)
    monkeypatch.setattr(compare_module, "PIECE_BYTES", 100)
    in_pieces = compare(other, mcore, workers=3)
    assert in_pieces.different == whole.different
    (difference,) = whole.different
    assert (difference.num_different, difference.index, difference.max_abs) == (4 * 32 + 1, (3, 0), math.inf)


def test_a_converter_that_mixes_up_heads_passes_the_plan_proof_and_fails_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hf = write_model(tmp_path / "hf", "qwen2")
    planned = hf_to_mcore.plan_hf_to_mcore

    def mixed_up(weights, *arguments):
        rules = [
            replace(rule, blocks=tuple(reversed(rule.blocks)))
            if "linear_qkv.weight" in rule.checkpoint_key
            else rule
            for rule in weights.rules
        ]
        return planned(replace(weights, rules=tuple(rules)), *arguments)

    monkeypatch.setattr("mindrl.checkpoint.conversion.convert.plan_hf_to_mcore", mixed_up)
    found = compare(hf, to_mcore(hf, tmp_path / "mcore"))
    assert {d.name.split(".")[-2] for d in found.different} == {"q_proj", "k_proj", "v_proj"}


@pytest.mark.parametrize(
    ("source", "target"),
    [("float32", "bfloat16"), ("bfloat16", "float32"), ("bfloat16", "float16"), ("float16", "float32")],
)
def test_types_that_differ_are_compared_after_the_conversion_and_it_is_said(
    tmp_path: Path, source: str, target: str
):
    hf = write_model(tmp_path / "hf", "llama", dtype=getattr(torch, source))
    mcore = to_mcore(hf, tmp_path / "mcore", dtype=target)
    found = compare(hf, mcore)
    assert found.equal
    assert found.converted == {(source, target): len(tensors_of(hf))}
    convert_mcore_to_hf(mcore, tmp_path / "back", progress=False)
    stored = read_model(tmp_path / "back")[NAME]
    flip_bit(stored.path, stored.offset)
    assert describe(compare(hf, tmp_path / "back")) == ([NAME], [], []), "the lowest bit counts"


def test_rounded_weights_are_not_the_source_of_those_they_were_rounded_from(tmp_path: Path):
    hf = write_model(tmp_path / "hf", "llama")
    assert not compare(to_mcore(hf, tmp_path / "mcore", dtype="bfloat16"), hf).equal


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_fp8_weights_are_compared_times_their_scales(tmp_path: Path, dtype: str | None):
    hf = write_model(tmp_path / "hf", "deepseek_v3", dtype=torch.bfloat16)
    write_fp8_model(hf, tmp_path / "fp8")
    mcore = to_mcore(tmp_path / "fp8", tmp_path / "mcore", dtype=dtype)
    found = compare(tmp_path / "fp8", mcore)
    assert found.equal
    assert found.converted[("float8_e4m3fn", dtype or "bfloat16")] > 0
    same = compare(tmp_path / "fp8", tmp_path / "fp8")
    assert same.equal
    name = next(name for name, tensor in read_model(tmp_path / "fp8").items() if tensor.scales)
    scales = read_model(tmp_path / "fp8")[name].scales
    flip_bit(scales.path, scales.offset + 3)
    assert describe(compare(tmp_path / "fp8", mcore)) == ([name], [], []), "a scale counts"


def test_tensors_on_one_side_and_other_shapes_are_named(tmp_path: Path):
    hf = write_model(tmp_path / "hf", "qwen2", tied=False)

    def fewer(tensors: dict[str, torch.Tensor]) -> None:
        tensors["score.weight"] = tensors.pop("lm_head.weight")
        tensors[NAME] = tensors[NAME][:-1].clone()

    other = change(hf, fewer, tmp_path / "other")
    assert describe(compare(hf, other)) == ([NAME], ["lm_head.weight"], ["score.weight"])
    assert describe(compare(other, to_mcore(hf, tmp_path / "mcore"))) == (
        [NAME],
        ["score.weight"],
        ["lm_head.weight"],
    )


def test_a_tied_output_layer_that_is_stored_is_compared_with_the_embedding(tmp_path: Path):
    hf = write_model(tmp_path / "hf", "qwen2", tied=True)
    mcore = to_mcore(hf, tmp_path / "mcore")

    def stored(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    twice = change(hf, stored, tmp_path / "twice")
    for left, right in ((twice, mcore), (mcore, twice), (hf, twice)):
        found = compare(left, right)
        assert found.equal
        assert "lm_head.weight is not stored, it is model.embed_tokens.weight" in found.notes[0]
    other = change(twice, lambda tensors: tensors["lm_head.weight"][0].add_(1), tmp_path / "other")
    assert describe(compare(other, mcore)) == (["lm_head.weight"], [], [])


def test_layers_for_multi_token_prediction_that_were_dropped_are_noted_and_no_difference(tmp_path: Path):
    hf = write_model(tmp_path / "hf", "deepseek_v3", mtp=1)
    kept, dropped = (
        to_mcore(hf, tmp_path / "kept", mtp="keep"),
        to_mcore(hf, tmp_path / "dropped", mtp="drop"),
    )
    assert compare(hf, kept).equal
    assert (
        "layers.3.embed_tokens.weight is not stored, it is model.embed_tokens" in compare(hf, kept).notes[0]
    )
    for left, right in ((hf, dropped), (dropped, hf), (kept, dropped)):
        found = compare(left, right)
        assert found.equal
        assert "of layers for multi-token prediction, which the other side does not have" in found.notes[-1]
    assert compare(hf, kept).num_equal > compare(hf, dropped).num_equal
    other = change(hf, lambda tensors: tensors["model.layers.3.enorm.weight"].add_(1), tmp_path / "other")
    assert describe(compare(other, kept)) == (["model.layers.3.enorm.weight"], [], [])
    assert compare(other, kept, keep_mtp=False).equal


def test_two_directories_of_a_family_without_a_map_are_compared_by_names(tmp_path: Path):
    hf = write_model(tmp_path / "hf", "llama")
    (hf / "config.json").write_text('{"model_type": "gpt9"}')
    other = change(hf, lambda tensors: tensors[NAME].neg_(), tmp_path / "other")
    assert compare(hf, hf).equal
    assert describe(compare(hf, other)) == ([NAME], [], [])
    (hf / "config.json").unlink()
    assert compare(hf, hf).equal


def test_a_checkpoint_without_config_json_takes_the_other_sides_or_the_one_that_is_named(tmp_path: Path):
    hf = write_model(tmp_path / "hf", "llama")
    mcore = to_mcore(hf, tmp_path / "mcore")
    shutil.rmtree(mcore / "hf")
    assert compare(hf, mcore).equal
    assert compare(mcore, mcore, hf_dir=hf).equal
    with pytest.raises(RequestError, match="--hf-dir"):
        compare(mcore, mcore)


@pytest.mark.parametrize("path", ["nowhere", "file", "empty"])
def test_what_holds_no_weights_is_refused(tmp_path: Path, path: str):
    hf = write_model(tmp_path / "hf", "llama")
    (tmp_path / "file").write_text("no directory")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=str(tmp_path / path)):
        compare(hf, tmp_path / path)
    with pytest.raises(RequestError, match=str(tmp_path / path)):
        compare(tmp_path / path, hf)
