"""The main job, from one command: what README.md promises, with the bars that the quick start sets itself."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from real_runs import ENVIRONMENT, ROOT
from transformers import AutoModelForCausalLM

RUN_DIR = ROOT / "outputs" / "quickstart"
SECONDS = 1500
"""A limit, not a bar: it takes about two minutes on two idle cores."""


@pytest.fixture(scope="module")
def quickstart() -> Iterator[subprocess.CompletedProcess[str]]:
    """One run of the script. What an earlier run left there is kept for the user."""
    kept = RUN_DIR.with_name(f"quickstart-kept-{os.getpid()}")
    if RUN_DIR.exists():
        RUN_DIR.rename(kept)
    try:
        yield subprocess.run(
            ["bash", "examples/grpo/quickstart.sh"],
            cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    finally:
        shutil.rmtree(RUN_DIR, ignore_errors=True)
        if kept.exists():
            kept.rename(RUN_DIR)


pytestmark = pytest.mark.timeout(SECONDS + 60)


def read_json(name: str) -> dict[str, float]:
    return json.loads((RUN_DIR / name).read_text())


def test_the_model_learns_to_sort(quickstart: subprocess.CompletedProcess[str]):
    assert quickstart.returncode == 0, quickstart.stdout[-3000:] + quickstart.stderr[-3000:]
    summary = read_json("summary.json")
    assert summary["reward_first"] <= 0.2
    assert summary["reward_last"] >= 0.65
    assert summary["eval_after"] >= 0.9
    assert summary["eval_after"] - summary["eval_before"] >= 0.2
    assert summary["max_logprob_gap"] < 1e-4
    assert (summary["steps"], summary["device"], summary["world_size"]) == (150, "cpu", 2)


@pytest.mark.usefixtures("quickstart")
def test_the_run_directory_holds_what_it_promises():
    for name in (
        "metrics.jsonl",
        "summary.json",
        "report.html",
        "hal.txt",
        "config.yaml",
        "hf/model.safetensors",
    ):
        assert (RUN_DIR / name).stat().st_size > 0, name
    report = (RUN_DIR / "report.html").read_text()
    assert "src=" not in report  # self-contained
    for words in (
        "Reward",
        "Accuracy",
        "Response length",
        "KL",
        "Entropy",
        "Gradient norm",
        "gap",
        "Step time",
    ):
        assert words in report, words


@pytest.mark.usefixtures("quickstart")
def test_the_untrained_model_survives_conversion_there_and_back_bit_for_bit(tmp_path: Path):
    command = [
        sys.executable, "-m", "mindrl", "convert", "--load-model-type", "mg", "--save-model-type", "hf",
        "--load-dir", str(RUN_DIR / "mcore"), "--save-dir", str(tmp_path / "back"),
    ]  # fmt: skip
    subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True, timeout=300)
    original = AutoModelForCausalLM.from_pretrained(RUN_DIR / "model").state_dict()
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back").state_dict()
    assert original.keys() == back.keys()
    assert all(torch.equal(original[name], back[name]) for name in original)
