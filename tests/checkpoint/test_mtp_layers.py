"""Layers for multi-token prediction, kept and left out: nothing is lost, and nothing in silence."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hf_models import assert_same_bits, tensors_of, write_model
from megatron.core import dist_checkpointing
from safetensors.torch import save_file

from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore, convert_mcore_to_hf
from mindrl.errors import RequestError
from mindrl.weight_maps import read_architecture, weight_map
from tests.distributed import run_distributed
from tests.weight_maps.megatron_models import build, load


def to_mcore(hf: Path, mtp: str | None) -> Path:
    mcore = hf.with_name("mcore")
    convert_hf_to_mcore(hf, mcore, mtp=mtp, progress=False)
    return mcore


def and_back(mcore: Path, mtp: str | None) -> Path:
    back = mcore.with_name("back")
    convert_mcore_to_hf(mcore, back, mtp=mtp, progress=False)
    return back


def change(hf: Path, **tensors: torch.Tensor | None) -> None:
    """Replace or take away tensors of a model in one file."""
    found = tensors_of(hf) | tensors
    save_file(
        {name: tensor for name, tensor in found.items() if tensor is not None}, hf / "model.safetensors"
    )


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    "kind",
    [
        {"family": "deepseek_v3", "mtp": 1, "dtype": torch.bfloat16, "router_bias_dtype": torch.float32},
        {"family": "moonlight", "mtp": 2, "first_k_dense_replace": 0},
    ],
    ids=["bf16", "fp32_two_layers"],
)
def test_kept_layers_come_back_bit_for_bit_with_their_copies_of_embedding_and_output_layer(
    tmp_path, kind, tied
):
    hf = write_model(tmp_path / "hf", tied=tied, **kind)
    back = and_back(to_mcore(hf, "keep"), "keep")
    assert_same_bits(back, hf)
    assert (back / "config.json").read_text() == (hf / "config.json").read_text()


def test_left_out_layers_leave_the_model_and_a_config_that_says_so(tmp_path):
    hf = write_model(tmp_path / "hf", "deepseek_v3", tied=False, mtp=1)
    back = and_back(to_mcore(hf, "drop"), None)
    whole, rest = tensors_of(hf), tensors_of(back)
    assert set(whole) - set(rest) == {name for name in whole if name.startswith("model.layers.3.")}
    assert all(torch.equal(rest[name], whole[name]) for name in rest)
    assert json.loads((back / "config.json").read_text())["num_nextn_predict_layers"] == 0


def test_nobody_decides_for_the_user(tmp_path):
    hf = write_model(tmp_path / "hf", "deepseek_v3", tied=False, mtp=1)
    with pytest.raises(RequestError, match=r"--mtp keep.*--mtp drop"):
        to_mcore(hf, None)
    assert not hf.with_name("mcore").exists()


def test_a_config_that_speaks_of_layers_that_the_files_lack_needs_no_decision(tmp_path):
    """transformers writes such models."""
    hf = write_model(tmp_path / "hf", "deepseek_v3", tied=False)
    config = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 1}))
    assert_same_bits(and_back(to_mcore(hf, None), None), hf)


def test_a_checkpoint_without_these_layers_needs_no_decision_whatever_its_config_says(tmp_path):
    """As training saves one, with the config.json of the model that it began with."""
    mcore = to_mcore(write_model(tmp_path / "hf", "deepseek_v3", tied=False, mtp=1), "drop")
    (mcore / "hf/config.json").write_bytes((tmp_path / "hf/config.json").read_bytes())
    back = and_back(mcore, None)
    assert json.loads((back / "config.json").read_text())["num_nextn_predict_layers"] == 0
    with pytest.raises(RequestError, match=r"mtp\.layers\.0"):
        convert_mcore_to_hf(mcore, tmp_path / "kept", mtp="keep", progress=False)


def test_files_may_lack_the_copies(tmp_path):
    hf = write_model(tmp_path / "hf", "deepseek_v3", tied=False, mtp=1)
    before = tensors_of(hf)
    change(hf, **{f"model.layers.3.{name}.weight": None for name in ("embed_tokens", "shared_head.head")})
    after = tensors_of(and_back(to_mcore(hf, "keep"), "keep"))
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("name", ["embed_tokens", "shared_head.head"])
def test_a_copy_that_is_none_is_refused_by_name(tmp_path, name):
    hf = write_model(tmp_path / "hf", "deepseek_v3", tied=False, mtp=1)
    copy = f"model.layers.3.{name}.weight"
    other = tensors_of(hf)[copy].clone()
    other[-1, -1] += 1
    change(hf, **{copy: other})
    with pytest.raises(RequestError, match=rf"{copy}.*--mtp drop"):
        to_mcore(hf, "keep")
    assert not hf.with_name("mcore").exists()
    to_mcore(hf, "drop")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_megatron_core_loads_kept_layers_into_its_own_block_of_them(tmp_path, dtype):
    """By `dist_checkpointing` with its default strictness; the router's bias into float32, whatever it is stored in."""
    hf = write_model(tmp_path / "hf", "deepseek_v3", tied=False, mtp=2, dtype=dtype)
    [differing] = run_distributed(loaded_and_mapped_differ, 1, hf, to_mcore(hf, "keep"))
    assert differing == []


def loaded_and_mapped_differ(hf: Path, mcore: Path) -> list[str]:
    """Parameters and biases that the checkpoint and the map fill differently."""
    architecture = read_architecture(hf)
    mapped, loaded = build(architecture, "project"), build(architecture, "project")
    load(mapped, weight_map(architecture, mtp=True), tensors_of(hf))
    state = dist_checkpointing.load({"model": loaded.sharded_state_dict()}, str(mcore / "release"))
    loaded.load_state_dict(state["model"])
    expected = dict(mapped.named_parameters()) | dict(mapped.named_buffers())
    found = dict(loaded.named_parameters()) | dict(loaded.named_buffers())
    names = [name for name in expected if not name.endswith("tokens_per_expert")]
    assert sum(name.startswith("mtp.") for name in names) > 20
    assert {found[name].dtype for name in names if name.endswith("expert_bias")} == {torch.float32}
    return [name for name in names if not np.array_equal(found[name].detach(), expected[name].detach())]
