"""Damaged `torch_dist` checkpoints are refused, naming file and tensor, before anything is written."""

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore, convert_mcore_to_hf
from mindrl.checkpoint.formats.torch_archives import locate_tensor
from mindrl.errors import RequestError
from tests.checkpoint.hf_models import write_model

NORM = "decoder.layers.self_attention.linear_kv_up_proj.layer_norm_weight"
PROJECTION = "decoder.layers.self_attention.linear_proj.weight"
EXPERTS = "decoder.layers.mlp.experts.experts.linear_fc1.weight"
Change = Callable[[Metadata], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a model with experts in every layer."""
    folder = tmp_path_factory.mktemp("whole")
    write_model(folder / "hf", "deepseek_v3", tied=False, first_k_dense_replace=0)
    convert_hf_to_mcore(folder / "hf", folder / "mcore", tensor_parallel_size=2, progress=False)
    return folder / "mcore"


@pytest.fixture
def release(whole: Path, tmp_path: Path) -> Path:
    """Of a copy of it."""
    return shutil.copytree(whole, tmp_path / "mcore") / "release"


def refuse(release: Path, told: str) -> None:
    with pytest.raises(RequestError, match=f"(?s){told}"):
        convert_mcore_to_hf(release.parent, release.parent.parent / "back", progress=False)
    assert [path.name for path in release.parent.parent.iterdir()] == ["mcore"]


def chunk(key: str, number: int = -1) -> Callable[[Metadata], Any]:
    return lambda metadata: metadata.state_dict_metadata[key].chunks[number]


def drop_chunk(metadata: Metadata) -> None:
    metadata.state_dict_metadata[PROJECTION].chunks.pop()


def repeat_chunk(metadata: Metadata) -> None:
    metadata.state_dict_metadata[PROJECTION].chunks.append(chunk(PROJECTION)(metadata))


def drop_experts(metadata: Metadata) -> None:
    entry = metadata.state_dict_metadata[EXPERTS]
    entry.chunks[:] = [part for part in entry.chunks if part.offsets[:2] != (1, 5)]


def grow_chunk(metadata: Metadata) -> None:
    part = chunk(PROJECTION)(metadata)
    part.sizes = torch.Size([*part.sizes[:-1], part.sizes[-1] + 1])


def forget_place(metadata: Metadata) -> None:
    metadata.storage_data.pop(MetadataIndex(PROJECTION, chunk(PROJECTION)(metadata).offsets))


def change_place(**fields: Any) -> Change:
    def change(metadata: Metadata) -> None:
        index = MetadataIndex(PROJECTION, chunk(PROJECTION)(metadata).offsets)
        metadata.storage_data[index] = replace(metadata.storage_data[index], **fields)

    return change


def same_place(metadata: Metadata) -> None:
    """The last two chunks are said to be one archive."""
    places = [MetadataIndex(PROJECTION, chunk(PROJECTION, number)(metadata).offsets) for number in (-1, -2)]
    metadata.storage_data[places[0]] = metadata.storage_data[places[1]]


def swap_places(metadata: Metadata) -> None:
    """Chunks of different tensors: what lies there has another shape."""
    places = [
        MetadataIndex(key, chunk(key)(metadata).offsets)
        for key in (PROJECTION, "decoder.final_layernorm.weight")
    ]
    stored = [metadata.storage_data[place] for place in places]
    metadata.storage_data.update(zip(places, reversed(stored), strict=True))


def set_dtype(metadata: Metadata) -> None:
    metadata.state_dict_metadata[PROJECTION].properties.dtype = torch.bfloat16


def set_integers(metadata: Metadata) -> None:
    metadata.state_dict_metadata[PROJECTION].properties.dtype = torch.int8


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (drop_chunk, rf"{PROJECTION} \(2,\), rows from 0: filled up to"),
        (repeat_chunk, rf"{PROJECTION} .*not exactly once"),
        (drop_experts, rf"{EXPERTS} \(1, 5\): rows end at 0"),
        (grow_chunk, rf"{PROJECTION} has shape .* and a chunk of"),
        (forget_place, rf"\.metadata.*KeyError.*{PROJECTION}"),
        (change_place(offset=10**9), rf"__0_0\.distcp.*{PROJECTION}.*cut off"),
        (change_place(length=100), rf"__0_0\.distcp.*{PROJECTION}"),
        (change_place(offset=-1), rf"\.metadata.*{PROJECTION}.*-1"),
        (change_place(relative_path="../hf/config.json"), rf"\.metadata.*{PROJECTION}"),
        (change_place(relative_path="__7_0.distcp"), r"__7_0\.distcp.*can't be read: No such file"),
        (change_place(transform_descriptors=["zstd"]), rf"{PROJECTION} is stored transformed"),
        (same_place, rf"{PROJECTION} and {PROJECTION} are both said to lie at"),
        (swap_places, rf"__0_0\.distcp holds .*of ({PROJECTION}|decoder\.final_layernorm\.weight)"),
        (set_dtype, rf"__0_0\.distcp holds float32 .* bfloat16 .*{PROJECTION}"),
        (set_integers, rf"{PROJECTION} .*stored as int8"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_wrong_directory_is_refused(release: Path, change: Change, told: str):
    path = release / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    change(metadata)
    path.write_bytes(pickle.dumps(metadata))
    refuse(release, told)


def test_a_tensor_under_two_names_holds_the_same_bytes_or_is_refused(release: Path):
    metadata = pickle.loads((release / ".metadata").read_bytes())
    place = metadata.storage_data[MetadataIndex(NORM, chunk(NORM)(metadata).offsets)]
    with (release / place.relative_path).open("r+b") as file:
        start = locate_tensor(file, place.offset, place.length).offset
        file.seek(start)
        file.write(b"\1\2\3\4")
    refuse(release, rf"{NORM} .*kv_layernorm\.weight.*different values")


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.999])
def test_a_file_that_is_cut_off_is_refused(release: Path, kept: float):
    path = release / "__0_0.distcp"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    refuse(release, r"__0_0\.distcp holds no readable tensor.*cut off")


def test_a_layer_more_than_config_json_has_is_refused(release: Path):
    """Stacked layers by their shape; see test_saved_by_megatron.py for those with a key each."""
    config = release.parent / "hf/config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 3', '"num_hidden_layers": 2'))
    refuse(release, r"has shape \(3, .*config\.json wants \(2, ")
