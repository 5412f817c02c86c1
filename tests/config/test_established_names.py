"""Keys of other systems are answered with ours."""

from pathlib import Path

import pytest

from mindrl.config import Config, load
from mindrl.config.established import OURS, our_key
from mindrl.config.names import keys
from mindrl.errors import RequestError

MIGRATION = Path(__file__).resolve().parents[2] / "docs/migration.md"


def test_every_answer_is_a_key_that_exists():
    assert set(OURS) <= set(keys(Config))


def test_no_name_has_two_answers():
    names = [name for others in OURS.values() for name in others]
    assert len(names) == len(set(names))


def test_the_page_has_a_row_for_every_answer():
    page = MIGRATION.read_text()
    for ours, others in OURS.items():
        row = next((line for line in page.splitlines() if f"| `{ours}`" in line), None)
        assert row is not None, f"docs/migration.md has no row for {ours}"
        assert [name for name in others if f"`{name}`" not in row] == [], ours


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("rollout.n", "rollout.n_samples"),
        ("actor_rollout_ref.rollout.n", "rollout.n_samples"),
        ("rl_config.init_kl_coef", "algorithm.kl.coef"),
        ("algorithm.kl_ctrl.kl_coef", "algorithm.kl.coef"),
        ("models.policy.tensor_model_parallel_size", "rollout.tensor_parallel_size"),
        ("actor_config.tensor_model_parallel_size", "actor.tensor_model_parallel_size"),
        ("actor_rollout_ref.actor.megatron.tensor_model_parallel_size", "actor.tensor_model_parallel_size"),
        ("actor_rollout_ref.rollout.enforce_eager", "rollout.engine_args"),
        ("actor_rollout_ref.rollout.max_num_seqs", None),  # refused there: it follows from the batch
        ("something_else", None),
    ],
)
def test_the_longest_name_that_fits_decides(theirs: str, ours: str | None):
    assert our_key(theirs) == ours


def test_another_systems_override_is_answered(minimal: Path):
    with pytest.raises(
        RequestError, match=r"actor_rollout_ref\.rollout\.n: unknown key; here it is rollout\.n_samples"
    ):
        load(minimal, ["actor_rollout_ref.rollout.n=5"])
    with pytest.raises(RequestError, match="the \\+ in front is not needed here"):
        load(minimal, ["+rollout.n_samples=5"])


def test_another_systems_file_is_answered_key_by_key(tmp_path: Path):
    theirs = tmp_path / "theirs.yaml"
    theirs.write_text(
        "megatron_training: {global_batch_size: 32, stage: ray_grpo}\nrl_config: {n_samples_per_prompt: 8}\n"
    )
    with pytest.raises(RequestError) as caught:
        load(theirs)
    said = str(caught.value)
    for sentence in (
        "megatron_training.global_batch_size: unknown key; here it is trainer.global_batch_size",
        "rl_config.n_samples_per_prompt: unknown key; here it is rollout.n_samples",
        "megatron_training: nothing here is called stage (docs/migration.md)",
    ):
        assert sentence in said


def test_groups_of_configurations_are_refused(tmp_path: Path):
    theirs = tmp_path / "theirs.yaml"
    theirs.write_text("defaults:\n  - model: [qwen25_7b]\n")
    with pytest.raises(RequestError, match="expected a file's name; groups are not read here"):
        load(theirs)
