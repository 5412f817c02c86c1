"""What Megatron-core saves, in every way and layout it has, converts to the bits that were loaded."""

import json
import shutil
from pathlib import Path

import pytest

from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore, convert_mcore_to_hf
from mindrl.errors import RequestError
from tests.checkpoint.hf_models import assert_same_bits, write_model
from tests.checkpoint.megatron_saves import WAYS, save_in_every_way
from tests.checkpoint.stock_megatron import Layout
from tests.distributed import run_distributed

CASES: dict[str, tuple[str, Layout, dict[str, object]]] = {
    "llama": ("llama", Layout(tensor=2, expert_tensor=2), {}),
    "qwen3-vpp": ("qwen3", Layout(pipeline=2, virtual=2), {"num_hidden_layers": 4, "tied": False}),
    "qwen3_moe": ("qwen3_moe", Layout(tensor=2, expert=2, expert_tensor=1), {"tied": False}),
    "deepseek_v3": ("deepseek_v3", Layout(expert=2), {"tied": False}),
}


SLOW = {"llama", "qwen3-vpp"}
"""Of which the others, and the files made by hand in test_rank_files.py, have the parts."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(case, marks=[pytest.mark.slow] if case in SLOW else []) for case in CASES],
)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, layout, settings = CASES[request.param]
    folder = tmp_path_factory.mktemp("saved")
    write_model(folder / "hf", family, **settings)
    convert_hf_to_mcore(folder / "hf", folder / "mcore", progress=False)
    run_distributed(save_in_every_way, 2, folder, layout, timeout=240)
    return folder


@pytest.mark.parametrize("way", [*WAYS, "parallel", "ranks"])
def test_every_way_of_saving_is_read(saved: Path, way: str, tmp_path: Path):
    convert_mcore_to_hf(saved / way, tmp_path / "back", hf_dir=saved / "hf", progress=False)
    assert_same_bits(tmp_path / "back", saved / "hf")


@pytest.mark.parametrize("way", ["a key a layer", "ranks"])
@pytest.mark.parametrize("num_layers", [-1, 1])
def test_another_number_of_layers_is_refused(saved: Path, way: str, num_layers: int, tmp_path: Path):
    """Also where every tensor that is asked for is there."""
    shutil.copytree(saved / "hf", tmp_path / "other")
    config = json.loads((tmp_path / "other/config.json").read_text())
    config["num_hidden_layers"] += num_layers
    (tmp_path / "other/config.json").write_text(json.dumps(config))
    with pytest.raises(RequestError, match=r"layers\.\d+.*--hf-dir"):
        convert_mcore_to_hf(saved / way, tmp_path / "back", hf_dir=tmp_path / "other", progress=False)
