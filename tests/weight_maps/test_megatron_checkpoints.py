"""Checkpoints made of the maps hold what Megatron-core's own models ask for: keys, shapes and extra states."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_keys import problems_of_all_models
from families import MODELS, full_map

from mindrl.weight_maps import extra_state_keys
from tests.distributed import run_distributed

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("layers", ["megatron", "project"])
def test_every_key_that_a_model_asks_for_is_written_with_the_shape_it_has_there(layers):
    [problems] = run_distributed(problems_of_all_models, 1, layers)
    assert problems == {name: [] for name in MODELS}


def test_every_key_that_megatrons_layers_of_transformer_engine_ask_for_is_written():
    """By Megatron's code for it; the package itself is a stand-in with the same parameters."""
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("checkpoint_keys.py")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert json.loads(run.stdout.splitlines()[-1]) == {name: [] for name in MODELS}


def test_extra_states_are_asked_for_where_a_layer_lies_in_its_stack_and_an_expert_in_its():
    alike = extra_state_keys(full_map("qwen3_moe"))
    assert "decoder.layers.self_attention.linear_qkv._extra_state/shard_1_2" in alike
    assert "decoder.layers.pre_mlp_layernorm._extra_state/shard_0_2" in alike
    assert "decoder.layers.mlp.experts.experts.linear_fc1._extra_state/shard_1.3_2.4" in alike
    mixed = extra_state_keys(full_map("deepseek_v3 with mtp"))
    assert "decoder.layers.2.mlp.experts.experts.linear_fc2._extra_state/shard_7_8" in mixed
    assert "decoder.layers.0.mlp.linear_fc1._extra_state/shard_0_1" in mixed
    assert "mtp.layers.0.eh_proj._extra_state/shard_0_1" in mixed
    assert not [
        key for key in (*alike, *mixed) if "router" in key or "embedding" in key or "output_layer" in key
    ]
