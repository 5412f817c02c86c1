"""Checkpoints between two versions of torch, both ways, through Megatron's own `dist_checkpointing`.

MINDRL_OTHER_TORCH names a Python that has another torch, and the same megatron-core; docs/compatibility.md says how to
make one. Nothing of this project is needed there.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore, convert_mcore_to_hf
from mindrl.checkpoint.training import load_checkpoint, save_checkpoint
from mindrl.models.backend import Part
from tests.checkpoint.hf_models import FAMILIES, assert_same_bits, write_model
from tests.distributed import run_distributed
from tests.models.megatron_setup import make_backend
from tests.models.tiny_models import make_config, make_mini_batch, make_samples, save_tiny_model

OTHER = os.environ.get("MINDRL_OTHER_TORCH")
RESAVE = Path(__file__).with_name("resave.py")
PARTS: tuple[Part, ...] = ("model", "optimizer", "random")
pytestmark = pytest.mark.skipif(OTHER is None, reason="MINDRL_OTHER_TORCH names no Python with another torch")


def resave(python: str, source: Path, target: Path) -> dict[str, Any]:
    """Load everything and save it anew with another interpreter; what it found."""
    done = subprocess.run(
        [python, RESAVE, source, target],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_converted_checkpoint_goes_to_the_other_torch_and_back(family: str, tmp_path: Path):
    assert OTHER is not None
    hf = write_model(tmp_path / "hf", family, tied=False, dtype=torch.bfloat16)
    convert_hf_to_mcore(hf, tmp_path / "mcore", progress=False)
    there = resave(OTHER, tmp_path / "mcore/release", tmp_path / "there")
    back = resave(sys.executable, tmp_path / "there", tmp_path / "back")
    here = resave(sys.executable, tmp_path / "mcore/release", tmp_path / "here")
    assert there["torch"] != back["torch"] == torch.__version__
    assert there["digests"] == back["digests"] == here["digests"]
    assert there["objects"] == back["objects"]
    for checkpoint in ("there", "back"):
        convert_mcore_to_hf(tmp_path / checkpoint, tmp_path / f"hf-{checkpoint}", hf_dir=hf, progress=False)
        assert_same_bits(tmp_path / f"hf-{checkpoint}", hf)


def train_and_save(model: Path, source: Path, target: Path) -> None:
    """One step with an optimizer that is spread over two ranks."""
    backend, rank, _ = make_backend(make_config(model, 2))
    backend.load_state(load_checkpoint(source, backend.state()))
    backend.accumulate_gradients(make_mini_batch(make_samples(8), slice(rank * 4, rank * 4 + 4)))
    backend.apply_gradients(lr=0.01)
    save_checkpoint(target, 1, backend.state(PARTS), model)


def load_and_save(model: Path, source: Path, target: Path) -> None:
    """Everything, into a fresh backend and out again."""
    backend, _, _ = make_backend(make_config(model, 2))
    backend.load_state(load_checkpoint(source, backend.state(PARTS, for_loading=True)))
    save_checkpoint(target, 1, backend.state(PARTS), model)


def test_a_run_goes_on_from_what_the_other_torch_saved(tmp_path: Path):
    assert OTHER is not None
    model = save_tiny_model(tmp_path / "hf", "qwen3-untied")
    convert_hf_to_mcore(model, tmp_path / "mcore", progress=False)
    run_distributed(train_and_save, 2, model, tmp_path / "mcore", tmp_path / "run", timeout=200)
    there = resave(OTHER, tmp_path / "run/iter_0000001", tmp_path / "there")
    assert any("exp_avg" in key for key in there["digests"])
    run_distributed(load_and_save, 2, model, tmp_path / "there", tmp_path / "again", timeout=200)
    again = resave(sys.executable, tmp_path / "again/iter_0000001", tmp_path / "same")
    assert again["digests"] == there["digests"]
    for checkpoint in ("run", "there"):
        convert_mcore_to_hf(
            tmp_path / checkpoint, tmp_path / f"hf-{checkpoint}", hf_dir=model, progress=False
        )
    assert_same_bits(tmp_path / "hf-there", tmp_path / "hf-run")
