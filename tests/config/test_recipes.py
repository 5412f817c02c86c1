"""The recipes for the models of docs/launch.md, on nodes of 8 and of 16 devices, from the same yaml."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mindrl.config import load
from mindrl.config.loading import compose
from mindrl.planning.batch import BatchPlan
from mindrl.planning.checks import check_model
from mindrl.rewards import find
from mindrl.weight_maps import read_architecture

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NODES = {
    "grpo_qwen25_7b": [(1, 8), (1, 16), (2, 8)],
    "grpo_qwen25_32b": [(4, 8), (2, 16)],
    "grpo_qwen3_8b": [(1, 8), (1, 16), (2, 8)],
    "grpo_qwen3_30b_a3b": [(4, 8), (2, 16)],
    "grpo_moonlight_16b_a3b": [(2, 8), (1, 16)],
}
"""Nodes and devices per node of each recipe, as docs/launch.md has them."""
LAYOUTS = [(name, *nodes) for name, layouts in NODES.items() for nodes in layouts]


@pytest.mark.parametrize(("name", "num_nodes", "devices"), LAYOUTS)
def test_a_recipe_fits_its_model_on_every_documented_number_of_nodes(name: str, num_nodes: int, devices: int):
    counts = [f"cluster.num_nodes={num_nodes}", f"cluster.devices_per_node={devices}"]
    config = load(CONFIGS / f"{name}.yaml", counts)
    assert config.model.architecture is not None
    check_model(config, read_architecture(CONFIGS.parent / config.model.architecture))
    assert BatchPlan.from_config(config).num_micro_batches >= 1
    # Tensor-parallel neighbours talk at every layer, so they share a node.
    assert devices % config.actor.tensor_model_parallel_size == 0
    assert devices % config.rollout.tensor_parallel_size == 0
    for function in config.reward.functions:
        find(function.name)


@pytest.mark.parametrize("name", NODES)
def test_a_recipe_says_nothing_that_its_base_says(name: str):
    tree = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    assert isinstance(tree, dict)
    (base,) = tree.pop("defaults")
    inherited = leaves(compose(CONFIGS / base))
    repeated = {key for key, value in leaves(tree).items() if inherited.get(key) == value}
    assert repeated == set()


@pytest.mark.parametrize("name", NODES)
def test_every_recipe_has_a_launch_script_and_outputs_of_its_own(name: str):
    script = CONFIGS.parent / "examples/grpo" / f"{name.replace('grpo_', 'grpo_trainer_')}.sh"
    assert f"configs/{name}.yaml" in script.read_text()
    assert load(CONFIGS / f"{name}.yaml").trainer.output_dir.name == name.removeprefix("grpo_")


@pytest.mark.parametrize("name", ["grpo_qwen25_7b", "grpo_qwen25_32b"])
def test_the_r1_zero_recipes_are_the_published_ones(name: str):
    config = load(CONFIGS / f"{name}.yaml")
    published = {
        "grpo_qwen25_7b": (32, 8, 2048, 2048),
        "grpo_qwen25_32b": (64, 16, 1024, 2048),
    }[name]
    data = config.data
    assert published == (
        config.trainer.global_batch_size,
        config.rollout.n_samples,
        data.max_prompt_length,
        data.max_response_length,
    )
    assert config.actor.mini_batch_size == config.trainer.global_batch_size  # one optimizer step a batch
    assert (config.rollout.temperature, config.algorithm.kl.coef, config.algorithm.kl.estimator) == (
        1.0,
        0.001,
        "k3",
    )
    assert (config.actor.optimizer.lr, config.actor.lr_schedule.name) == (1e-6, "constant")
    assert config.actor.optimizer.betas == (0.9, 0.95)
    assert [source.path.stem for source in data.train] == ["deepscaler"]
    assert [source.path.stem for source in data.eval] == ["math500", "aime"]


def leaves(tree: object, prefix: str = "") -> dict[str, object]:
    """Dotted key -> value."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        key: value
        for name, below in tree.items()
        for key, value in leaves(below, f"{prefix}.{name}" if prefix else str(name)).items()
    }
