"""`mindrl plan`: what it shows, what it hands to machines, and what it leaves alone."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mindrl.cli import main as cli
from tests.config.config_files import minimal_yaml

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "configs/model"
TWO_NODES = ["cluster.num_nodes=2", "cluster.devices_per_node=8", "rollout.tensor_parallel_size=4"]
LARGE = [
    *TWO_NODES,
    "actor.tensor_model_parallel_size=2",
    "actor.pipeline_model_parallel_size=2",
    "actor.sequence_parallel=true",
    "actor.mini_batch_size=16",
    "trainer.global_batch_size=32",
]


def command(folder: Path, model: str, *arguments: str) -> list[str]:
    yaml = minimal_yaml(folder)
    return ["plan", str(yaml), f"model.architecture={MODELS / model}", *arguments]


def plan_json(capsys: pytest.CaptureFixture[str], folder: Path, model: str, *arguments: str) -> dict:
    code = cli.main([*command(folder, model, *arguments), "--json"])
    plan = json.loads(capsys.readouterr().out)
    assert code == int(plan["memory"]["fits"] is False)
    return plan


def plan_lines(capsys: pytest.CaptureFixture[str], folder: Path, model: str, *arguments: str) -> list[str]:
    cli.main(command(folder, model, *arguments))
    return capsys.readouterr().out.splitlines()


def test_it_imports_nothing_heavy_and_starts_nothing(tmp_path: Path):
    heavy = ["torch", "ray", "megatron", "vllm", "transformers", "hal", "numpy"]
    arguments = command(tmp_path, "qwen2.5-7b")
    code = (
        f"import sys; from mindrl.cli import main as cli; code = cli.main({arguments!r}); "
        f"loaded = [name for name in {heavy!r} if name in sys.modules]; sys.exit(code or (str(loaded) if loaded else 0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_the_model_line_says_how_many_parameters_each_token_uses(capsys, tmp_path: Path):
    dense = plan_lines(capsys, tmp_path, "qwen3-8b")
    assert dense[0].endswith("(qwen3): 8.19 B parameters")
    experts = plan_lines(capsys, tmp_path, "qwen3-30b-a3b")
    assert experts[0].endswith("(qwen3_moe): 30.53 B parameters, 3.35 B used by each token")


def test_the_rank_table_shows_every_coordinate(capsys, tmp_path: Path):
    arguments = [*LARGE, "actor.expert_model_parallel_size=2", "algorithm.kl.coef=0.1"]
    lines = plan_lines(capsys, tmp_path, "qwen3-30b-a3b", *arguments)
    head = next(line for line in lines if line.startswith("rank"))
    assert head.split() == ["rank", "node", "device", "TP", "PP", "CP", "EP", "DP", "engine", "roles"]
    rows = {line.split()[0]: " ".join(line.split()) for line in lines[lines.index(head) + 1 :][:16]}
    assert rows["0"] == "0 0 0 0 0 0 0 0 0 shard 0 actor, reference, rollout"
    assert rows["11"] == "11 1 3 1 1 0 1 1 2 shard 3 actor, reference, rollout"


def test_a_large_world_shows_its_ends_unless_all_is_asked_for(capsys, tmp_path: Path):
    large = ["cluster.num_nodes=8", "cluster.devices_per_node=8", "trainer.global_batch_size=64"]
    few = plan_lines(capsys, tmp_path, "qwen2.5-7b", *large, "actor.mini_batch_size=64")
    every = plan_lines(capsys, tmp_path, "qwen2.5-7b", *large, "actor.mini_batch_size=64", "--all")
    assert "(50 more ranks: --all shows them)" in few
    assert len(every) == len(few) - 2 + 50
    assert sum(line.endswith("actor, rollout") for line in every) == 64


def test_the_batch_table_says_where_each_number_comes_from(capsys, tmp_path: Path):
    lines = plan_lines(capsys, tmp_path, "qwen2.5-7b")
    numbers = {line.split("  ")[0]: line.split("  ", 1)[1].strip() for line in lines if "  " in line}
    assert numbers["samples a step"].split() == ["32", "x", "4", "rollout.n_samples"]
    assert numbers["tokens a step, at most"].startswith("768  x (16 data.max_prompt_length + 8")
    assert numbers["optimizer steps a step"].startswith("2  8 prompts / 4 actor.mini_batch_size")
    assert numbers["micro-batches of each copy"].startswith("8  16 samples / (DP 1 x 2")
    assert numbers["optimizer steps in all"].startswith("20  2 x 10 trainer.total_steps")


RECIPES = {
    "qwen25_7b": "qwen2",
    "qwen25_32b": "qwen2",
    "qwen3_8b": "qwen3",
    "qwen3_30b_a3b": "qwen3_moe",
    "moonlight_16b_a3b": "deepseek_v3",
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_can_be_planned_without_its_model(capsys, monkeypatch, tmp_path: Path, recipe: str):
    monkeypatch.chdir(tmp_path)
    yaml = str(ROOT / f"configs/grpo_{recipe}.yaml")
    assert cli.main(["plan", yaml, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["model"]["model_type"] == RECIPES[recipe]
    assert sum(stage["num_layers"] for stage in plan["model"]["stages"]) == plan["model"]["num_layers"]
    assert all("across nodes" in note for note in plan["notes"]), "it can't be trained"
    assert cli.main(["plan", yaml]) == 0
    text = capsys.readouterr().out
    assert all(part in text for part in ("parameters", "rank  node", "batch", "memory in GiB", "peak:"))


KEYS = {
    "": {"version", "model", "topology", "batch", "memory", "notes"},
    "model": {"path", "model_type", "num_layers", "parameters", "active_parameters", "stages"},
    "topology": {
        "world_size",
        "num_nodes",
        "devices_per_node",
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "context_parallel_size",
        "expert_parallel_size",
        "data_parallel_size",
        "expert_data_parallel_size",
        "num_engines",
        "engine_size",
        "roles",
        "ranks",
    },
    "batch": {
        "prompts_per_step",
        "samples_per_prompt",
        "samples_per_step",
        "tokens_per_step_at_most",
        "prompts_per_engine_at_most",
        "optimizer_steps_per_step",
        "samples_per_optimizer_step",
        "micro_batches_per_optimizer_step",
        "samples_per_micro_batch",
        "steps",
        "optimizer_steps",
        "separate_old_log_probs",
    },
    "memory": {"rank", "parts", "phases", "peak", "peak_phase", "limit", "fits", "advice"},
}


def test_the_keys_of_the_json_are_these(capsys, tmp_path: Path):
    """A script may rely on them: `version` rises when one goes."""
    plan = plan_json(capsys, tmp_path, "qwen3-8b", *LARGE)
    assert plan["version"] == 1
    assert {section: set(plan[section] if section else plan) for section in KEYS} == KEYS
    assert len(plan["topology"]["ranks"]) == 16
    assert set(plan["topology"]["ranks"][0]) == {
        "rank",
        "node",
        "device",
        "tensor_parallel_rank",
        "context_parallel_rank",
        "data_parallel_rank",
        "pipeline_parallel_rank",
        "expert_parallel_rank",
        "expert_data_parallel_rank",
        "engine_index",
        "engine_rank",
    }
    parts = {"total", "embedding", "attention", "mlp", "experts", "router", "norms", "output"}
    assert set(plan["model"]["parameters"]) == parts
    for stage in plan["model"]["stages"]:
        assert set(stage) == {"first_layer", "num_layers", "parameters_per_rank"}
        assert set(stage["parameters_per_rank"]) == parts
    for part in plan["memory"]["parts"]:
        assert set(part) == {"name", "bytes", "phases"}


def test_the_phases_of_the_memory_table_are_the_sums_of_their_parts(capsys, tmp_path: Path):
    memory = plan_json(capsys, tmp_path, "qwen3-8b", *LARGE)["memory"]
    assert memory["peak"] == max(memory["phases"].values()) == memory["phases"][memory["peak_phase"]]
    for phase, size in memory["phases"].items():
        assert size == sum(part["bytes"] for part in memory["parts"] if phase in part["phases"])


def test_what_does_not_fit_is_answered_with_keys_and_exit_code_1(capsys, tmp_path: Path):
    arguments = [*LARGE, "actor.dtype=bfloat16", "--device-memory"]
    assert cli.main(command(tmp_path, "qwen2.5-32b", *arguments, "64")) == 1
    lines = capsys.readouterr().out.splitlines()
    advice = lines[lines.index("does not fit into 64.00 GiB; what would help:") + 1 :]
    assert advice
    assert all(re.match(r"  (nothing tried fits .*)?(actor|rollout)\.\w+", line) for line in advice)
    assert cli.main(command(tmp_path, "qwen2.5-32b", *arguments, "512")) == 0
    assert "fits into 512.00 GiB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["actor.tensor_model_parallel_size=3", "cluster.devices_per_node=3"],
            "32 attention heads can't be divided",
        ),
        (
            ["actor.expert_model_parallel_size=2", "cluster.devices_per_node=2"],
            "the model has no experts to share",
        ),
        (
            ["model.architecture=nowhere"],
            "model.architecture: nowhere is neither a config.json nor a directory",
        ),
        (["data.max_response_length=50000"], "are more than the model's max_position_embeddings, 40960"),
    ],
)
def test_what_can_not_be_laid_out_is_refused(capsys, tmp_path: Path, arguments: list[str], sentence: str):
    assert cli.main(command(tmp_path, "qwen3-8b", *arguments, "trainer.global_batch_size=12")) == 2
    assert sentence in capsys.readouterr().err


def test_a_note_says_where_groups_reach_across_nodes(capsys, tmp_path: Path):
    across = ["cluster.num_nodes=2", "cluster.devices_per_node=2", "rollout.tensor_parallel_size=4"]
    (note,) = plan_json(capsys, tmp_path, "qwen3-8b", *across)["notes"]
    assert note.startswith("rollout.tensor_parallel_size: its groups lie within 4 neighbouring devices")
    experts = ["actor.expert_model_parallel_size=4", "cluster.num_nodes=2", "cluster.devices_per_node=2"]
    (note,) = plan_json(capsys, tmp_path, "qwen3-30b-a3b", *experts)["notes"]
    assert note.startswith("actor.expert_model_parallel_size: its groups lie within 4 neighbouring devices")


@pytest.mark.parametrize("size", ["0", "-1", "nan", "much"])
def test_a_size_that_no_device_has_is_refused(capsys, tmp_path: Path, size: str):
    with pytest.raises(SystemExit) as ended:
        cli.main(command(tmp_path, "qwen3-8b", f"--device-memory={size}"))
    assert ended.value.code == 2
    assert f"'{size}' is no size of a device in GiB" in capsys.readouterr().err
