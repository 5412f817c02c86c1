"""What `--resume` asks for before it starts anything."""

from pathlib import Path

import pytest

from mindrl.checkpoint.directories import write_tracker
from mindrl.checkpoint.formats.torch_dist import Chunk, GlobalTensor, SavedObject, metadata_bytes
from mindrl.cli.main import main
from mindrl.config import dump
from mindrl.config.names import keys
from mindrl.config.schema import Config
from mindrl.errors import RequestError
from mindrl.trainer.resume import FREE, check_resume
from mindrl.trainer.run_directory import RunDirectory
from tests.models.tiny_models import make_config


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(tmp_path / "model", 2)


def change(config: Config, section: str, **values: object) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def run_saved_after_five_steps(path: Path, config: Config, *, complete: bool = True) -> RunDirectory:
    """What a run of ten steps has left; the checkpoint's directory lists what is in it."""
    checkpoint = path / "checkpoints" / "iter_0000005"
    checkpoint.mkdir(parents=True)
    tensor = GlobalTensor("optimizer.state.param.x", (1,), "float32", (Chunk((0,), (1,), "f", 0, 1),))
    objects = [SavedObject("generators.cpu.tp1.pp1/shard_0_2", "f", 1, 1)]
    (checkpoint / ".metadata").write_bytes(
        metadata_bytes([tensor], objects) if complete else metadata_bytes([], [])
    )
    write_tracker(path / "checkpoints", "5")
    (path / "config.yaml").write_text(dump(change(config, "trainer", total_steps=10)))
    return RunDirectory(path)


def test_every_key_that_may_change_is_a_key():
    assert set(FREE) <= set(keys(Config))


def test_without_a_checkpoint_there_is_nothing_to_resume(config: Config, tmp_path: Path):
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(RequestError, match=r"nothing to resume.*Leave out --resume"):
        check_resume(config, RunDirectory(tmp_path))


def test_a_checkpoint_of_weights_alone_is_named_with_what_it_lacks(config: Config, tmp_path: Path):
    directory = run_saved_after_five_steps(tmp_path, config, complete=False)
    with pytest.raises(
        RequestError, match=r"no optimizer state and no random generators.*model\.checkpoint="
    ):
        check_resume(change(config, "trainer", total_steps=10), directory)


def test_keys_that_must_stay_are_named_with_both_values(config: Config, tmp_path: Path):
    directory = run_saved_after_five_steps(tmp_path, config)
    other = change(
        change(config, "trainer", total_steps=10, global_batch_size=96), "algorithm", entropy_coef=0.5
    )
    with pytest.raises(RequestError) as refusal:
        check_resume(other, directory)
    assert "trainer.global_batch_size: the run has 48, found 96" in str(refusal.value)
    assert "algorithm.entropy_coef: the run has 0.02, found 0.5" in str(refusal.value)


def test_keys_that_may_change_are_told(config: Config, tmp_path: Path):
    directory = run_saved_after_five_steps(tmp_path, config)
    other = change(config, "trainer", total_steps=20)
    other = change(other, "actor", tensor_model_parallel_size=2, micro_batch_size=1)
    first, *notices = check_resume(other, directory)
    assert first.endswith("after step 5 of 20")
    assert notices == [
        "changed from here on: actor.tensor_model_parallel_size from 1 to 2",
        "changed from here on: actor.micro_batch_size from 2 to 1",
        "changed from here on: trainer.total_steps from 10 to 20",
    ]


@pytest.mark.parametrize("total_steps", [3, 5])
def test_a_run_that_has_taken_all_its_steps_says_so(config: Config, tmp_path: Path, total_steps: int):
    directory = run_saved_after_five_steps(tmp_path, config)
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(RequestError, match=rf"has taken 5 steps, and trainer\.total_steps is {total_steps}"):
        check_resume(change(config, "trainer", total_steps=total_steps), directory)


def test_a_run_killed_between_its_last_checkpoint_and_its_summary_goes_on_to_the_summary(
    config: Config, tmp_path: Path
):
    directory = run_saved_after_five_steps(tmp_path, config)
    assert check_resume(change(config, "trainer", total_steps=5), directory)


def test_resume_and_overwrite_exclude_each_other(capsys: pytest.CaptureFixture[str]):
    assert main(["train", "any.yaml", "--resume", "--overwrite"]) == 2
    assert "give one of them" in capsys.readouterr().err
