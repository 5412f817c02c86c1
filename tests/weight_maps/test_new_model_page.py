"""docs/new-model.md does what it says, in a copy of the package."""

import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mindrl.weight_maps import dense, experts, latent_attention, read_architecture
from mindrl.weight_maps.layers import decoder_layer
from tests.checkpoint.hf_models import assert_same_bits

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/new-model.md").read_text(encoding="utf-8")
MINDRL = f'mindrl() {{ {sys.executable} -m mindrl "$@"; }}\n'


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages and what the page's commands left beside them."""
    place = tmp_path_factory.mktemp("checkout")
    for package in ("mindrl", "hal"):
        shutil.copytree(ROOT / package, place / package, ignore=shutil.ignore_patterns("__pycache__"))
    return place


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def run(place: Path, *command: str) -> str:
    """What a command prints."""
    done = subprocess.run(
        command,
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_the_example_family_is_mapped_and_converted_there_and_back(copy: Path):
    family, names, _ = blocks("python")
    (path,) = re.findall(r"`(mindrl/weight_maps/families/\w+\.py)`:", PAGE)
    (copy / path).write_text(family)
    assert "tensors of transformers' are" in run(copy, sys.executable, "-c", names)
    (commands,) = blocks("bash")
    run(copy, "bash", "-ceu", MINDRL + commands)
    assert_same_bits(copy / "back", copy / "tiny")


def test_the_example_part_is_a_rule_of_layers_with_experts(tmp_path: Path):
    names: dict = {}
    exec(blocks("python")[2], names)
    part = names["shared_expert_gate"]
    architecture = read_architecture(ROOT / "configs/model/moonlight-16b-a3b")
    assert list(part(decoder_layer(architecture, 0))) == []
    (rule,) = part(decoder_layer(architecture, 1))
    assert rule.megatron_name == rule.checkpoint_key == "decoder.layers.1.mlp.shared_experts.gate_weight"
    assert rule.hf[0].name == "model.layers.1.mlp.shared_expert_gate.weight"


def test_the_table_of_parts_names_every_part_there_is():
    table = PAGE.split("Parts that there are:")[1].split("\n## ")[0]
    cells = [row.split(" | ")[0] for row in table.splitlines() if row.startswith("| `")]
    named = {name for cell in cells for name in re.findall(r"`(\w+\.\w+)`", cell)}
    parts = {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in (dense, experts, latent_attention)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
        and name[0] != "_"
        and list(inspect.signature(function).parameters) == ["layer"]
    }
    assert named == parts
