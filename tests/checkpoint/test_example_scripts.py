"""Every script of examples/ckpt does what it says, on a tiny model of its family."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fp8_models import write_fp8_model
from hf_models import assert_same_bits, bits, tensors_of, write_model

SCRIPTS = Path(__file__).resolve().parents[2] / "examples/ckpt"
FAMILIES = {
    "llama": "llama",
    "qwen25": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3_moe",
    "moonlight": "moonlight",
    "deepseek_v3": "deepseek_v3",
}
"""By the name in the scripts'."""


def run(
    script: str, load: Path, save: Path, *flags: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"LOAD_DIR": str(load), "SAVE_DIR": str(save), "PATH": path} | variables
    command = ["bash", str(SCRIPTS / script), *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def succeed(script: str, load: Path, save: Path, *flags: str, **variables: str) -> str:
    done = run(script, load, save, *flags, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_is_a_pair_of_scripts_for_every_family_and_no_other_script():
    pairs = {f"ckpt_convert_{name}_{step}.sh" for name in FAMILIES for step in ("hf2mcore", "mcore2hf")}
    assert {path.name for path in SCRIPTS.iterdir()} == pairs | {"_convert.sh"}


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "deepseek_v3"])
def test_a_familys_scripts_convert_there_and_back_bit_for_bit(tmp_path, name):
    hf = write_model(tmp_path / "hf", FAMILIES[name], dtype=torch.bfloat16, tied=False)
    succeed(f"ckpt_convert_{name}_hf2mcore.sh", hf, tmp_path / "mcore")
    succeed(f"ckpt_convert_{name}_mcore2hf.sh", tmp_path / "mcore", tmp_path / "back")
    assert_same_bits(tmp_path / "back", hf)
    assert (tmp_path / "back/config.json").read_bytes() == (hf / "config.json").read_bytes()


@pytest.mark.parametrize("choice", ["keep", pytest.param("drop", marks=pytest.mark.slow)])
def test_deepseek_v3_comes_from_fp8_in_one_go_with_or_without_its_prediction_layer_as_is_said(
    tmp_path, choice
):
    model = write_model(tmp_path / "model", "deepseek_v3", dtype=torch.bfloat16, tied=False, mtp=1)
    expected = write_fp8_model(model, tmp_path / "hf")
    there, back = "ckpt_convert_deepseek_v3_hf2mcore.sh", "ckpt_convert_deepseek_v3_mcore2hf.sh"
    refused = run(there, tmp_path / "hf", tmp_path / "mcore")
    assert refused.returncode == 2
    assert "--mtp" in refused.stderr
    succeed(there, tmp_path / "hf", tmp_path / "mcore", MTP=choice)
    # A checkpoint without the layer says so itself.
    succeed(back, tmp_path / "mcore", tmp_path / "back", **({"MTP": "keep"} if choice == "keep" else {}))
    result = tensors_of(tmp_path / "back")
    dropped = {name for name in expected if name.startswith("model.layers.3.")} if choice == "drop" else set()
    assert result.keys() == expected.keys() - dropped
    assert all(torch.equal(bits(tensor), bits(expected[name])) for name, tensor in result.items())
    config = json.loads((model / "config.json").read_text())
    config["num_nextn_predict_layers"] = 1 if choice == "keep" else 0
    assert json.loads((tmp_path / "back/config.json").read_text()) == config


def test_two_hosts_share_the_work_and_the_last_one_completes_it(tmp_path):
    hf = write_model(tmp_path / "hf", "qwen3_moe", dtype=torch.bfloat16, tied=False)
    succeed("ckpt_convert_qwen3_moe_hf2mcore.sh", hf, tmp_path / "mcore")
    script, load, save = "ckpt_convert_qwen3_moe_mcore2hf.sh", tmp_path / "mcore", tmp_path / "back"
    refused = run(script, load, save, NNODES="2")
    assert refused.returncode == 2
    assert refused.stderr == "NNODES is 2: give this host's number as NODE_RANK, from 0 to NNODES - 1\n"
    succeed(script, load, save, "--max-shard-size", "30KB", NNODES="2", NODE_RANK="1")
    assert not save.exists()
    succeed(script, load, save, "--max-shard-size", "30KB", NNODES="2", NODE_RANK="0")
    assert_same_bits(save, hf)
