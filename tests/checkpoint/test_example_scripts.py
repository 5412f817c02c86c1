"""Every script of examples/ckpt does what it says, on a tiny model of its family."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fp8_models import write_fp8_model
from hf_models import assert_same_bits, bits, tensors_of, write_model

SCRIPTS = Path(__file__).resolve().parents[2] / "examples/ckpt"
# Script: family, and what its model has.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen25": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "qwen3_moe": ("qwen3_moe", {}),
    "moonlight": ("moonlight", {}),
    "deepseek_v3": ("deepseek_v3", {"mtp": 1}),
}


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


@pytest.mark.parametrize("name", FAMILIES)
def test_a_familys_scripts_convert_there_and_back_bit_for_bit(tmp_path, name):
    family, options = FAMILIES[name]
    hf = write_model(tmp_path / "hf", family, dtype=torch.bfloat16, tied=False, **options)
    choice = {"MTP": "keep"} if options else {}
    succeed(f"ckpt_convert_{name}_hf2mcore.sh", hf, tmp_path / "mcore", **choice)
    succeed(f"ckpt_convert_{name}_mcore2hf.sh", tmp_path / "mcore", tmp_path / "back", **choice)
    assert_same_bits(tmp_path / "back", hf)
    assert json.loads((tmp_path / "back/config.json").read_text()) == json.loads(
        (hf / "config.json").read_text()
    )


def test_deepseek_v3_comes_from_fp8_in_one_go_and_says_what_becomes_of_its_prediction_layer(tmp_path):
    model = write_model(tmp_path / "model", "deepseek_v3", dtype=torch.bfloat16, tied=False, mtp=1)
    expected = write_fp8_model(model, tmp_path / "hf")
    script = "ckpt_convert_deepseek_v3_hf2mcore.sh"
    refused = run(script, tmp_path / "hf", tmp_path / "mcore")
    assert refused.returncode == 2
    assert "--mtp" in refused.stderr
    succeed(script, tmp_path / "hf", tmp_path / "mcore", MTP="drop")
    succeed("ckpt_convert_deepseek_v3_mcore2hf.sh", tmp_path / "mcore", tmp_path / "back")
    back = tensors_of(tmp_path / "back")
    assert back.keys() == {name for name in expected if not name.startswith("model.layers.3.")}
    assert all(torch.equal(bits(tensor), bits(expected[name])) for name, tensor in back.items())
    config = json.loads((tmp_path / "back/config.json").read_text())
    assert "quantization_config" not in config
    assert config["num_nextn_predict_layers"] == 0


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
