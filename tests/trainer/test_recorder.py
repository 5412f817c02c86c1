import io
import json
import time
from pathlib import Path

import pytest

from mindrl.config.trainer import LoggingConfig
from mindrl.trainer.metrics import MetricLog
from mindrl.trainer.progress import ProgressLine
from mindrl.trainer.recorder import Recorder


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def recorder(tmp_path: Path, screen: io.StringIO):
    with MetricLog(tmp_path, LoggingConfig(tensorboard=False), "run") as log:
        progress = ProgressLine(2, stream=screen)
        yield Recorder(log, progress, total_steps=2, world_size=4, logprob_gap_warn=1e-3)


def rows(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_each_step_is_written_with_what_was_recorded_in_it_and_nothing_of_the_last(
    recorder: Recorder, tmp_path: Path
):
    for step in recorder.steps(0):
        assert len(rows(tmp_path)) == step - 1
        recorder.add({"reward/mean": float(step)})
        if step == 1:
            recorder.add({"entropy": 0.5})
        recorder.write(step)
    first, second = rows(tmp_path)
    assert (first["step"], first["reward/mean"], first["entropy"]) == (1, 1.0, 0.5)
    assert (second["step"], second["reward/mean"]) == (2, 2.0)
    assert "entropy" not in second
    assert recorder.rows == [first, second]


def test_a_resumed_run_has_the_rows_of_its_checkpoint_and_goes_on_after_them(
    recorder: Recorder, tmp_path: Path
):
    recorder.restore([{"step": 0, "eval/few/pass_at_1": None}, {"step": 1, "reward/mean": 0.25}])
    for step in recorder.steps(done=1):
        recorder.add({"reward/mean": float(step)})
        recorder.write(step)
    before, first, second = rows(tmp_path)
    assert (before["step"], before["eval/few/pass_at_1"]) == (0, None)
    assert first == {"step": 1, "reward/mean": 0.25}
    assert (second["step"], second["reward/mean"]) == (2, 2.0)
    assert recorder.rows == [before, first, second]


def test_what_a_killed_run_wrote_after_its_checkpoint_is_gone(recorder: Recorder, tmp_path: Path):
    for step in recorder.steps(0):
        recorder.add({"reward/mean": float(step)})
        recorder.write(step)
    recorder.restore(recorder.rows[:1])
    assert [row["step"] for row in rows(tmp_path)] == [1]


def test_throughput_counts_the_tokens_given_per_device_of_the_steps_own_time(
    recorder: Recorder, tmp_path: Path
):
    for step in recorder.steps(0):
        recorder.add_tokens(100)
        recorder.add_tokens(20)
        recorder.write(step)
    for row in rows(tmp_path):
        assert row["throughput/tokens_per_second"] == pytest.approx(120 / row["time/step"])
        assert row["throughput/tokens_per_second_per_device"] == pytest.approx(30 / row["time/step"])


def test_evaluation_and_saving_do_not_count_into_the_step(recorder: Recorder, tmp_path: Path, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    for step in recorder.steps(0):  # reads the clock at its start and end, every stage likewise
        with recorder.timed("rollout"), recorder.timed("evaluation"):
            pass
        with recorder.timed("rollout"):
            pass
        recorder.write(step)
        time.perf_counter()  # a save comes after the step
    assert {row["time/rollout"] for row in rows(tmp_path)} == {4.0}
    assert {row["time/step"] for row in rows(tmp_path)} == {6.0}  # seven seconds, one of them evaluating
    assert all("time/evaluation" not in row for row in rows(tmp_path))


def test_a_gap_above_the_warning_is_told_with_its_step(recorder: Recorder, screen: io.StringIO):
    for step in recorder.steps(0):
        recorder.add({"logprob_gap/max": 1e-4 if step == 1 else 2e-3})
        recorder.write(step)
    warnings = [line for line in screen.getvalue().splitlines() if "logprob_gap_warn" in line]
    assert len(warnings) == 1
    assert "step 2: |log p_train - log p_rollout| reaches 0.002" in warnings[0]
