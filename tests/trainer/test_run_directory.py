"""What a new run may clear, and what it may not."""

from pathlib import Path

import pytest

from mindrl.errors import RequestError
from mindrl.trainer.run_directory import RunDirectory


def test_a_run_does_not_start_from_what_it_would_clear(tmp_path: Path):
    directory = RunDirectory(tmp_path)
    directory.check_inputs([tmp_path / "model", tmp_path / "data" / "train.parquet", Path("elsewhere")])
    for inside in ("checkpoints", "checkpoints/hf", "logs/../checkpoints/iter_0000010"):
        with pytest.raises(RequestError, match="starts from"):
            directory.check_inputs([tmp_path / inside])


def test_an_earlier_run_is_cleared_and_what_else_lies_there_is_kept(tmp_path: Path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest").write_text("10")
    (tmp_path / "metrics.jsonl").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    directory = RunDirectory(tmp_path)
    with pytest.raises(RequestError, match="--overwrite"):
        directory.check(overwrite=False)
    directory.check(overwrite=True)
    directory.prepare()
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "logs"}


def test_a_resumed_run_forgets_what_it_said_of_later_steps(tmp_path: Path):
    (tmp_path / "samples").mkdir()
    for step in (1, 5, 8):
        (tmp_path / "samples" / f"step_{step:06d}.parquet").touch()
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("{}")
    RunDirectory(tmp_path).rewind(5)
    assert {path.name for path in tmp_path.iterdir()} == {"samples", "config.yaml"}
    assert {path.stem for path in (tmp_path / "samples").iterdir()} == {"step_000001", "step_000005"}
