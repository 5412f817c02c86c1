"""metrics.jsonl, its sinks, the table of names, and the progress line."""

import io
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from mindrl.config.trainer import LoggingConfig
from mindrl.errors import RequestError
from mindrl.trainer import sinks
from mindrl.trainer.metric_names import METRICS, check_name, markdown_page, reproducible
from mindrl.trainer.metrics import MetricLog
from mindrl.trainer.progress import ProgressLine
from mindrl.trainer.sinks import WandbSettings, wandb_settings

ROOT = Path(__file__).parents[2]
QUIET = LoggingConfig(tensorboard=False)
NO_ENVIRONMENT: dict[str, str] = {}


def rows_of(run_dir: Path) -> list[dict[str, float | None]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_each_step_is_one_json_object(tmp_path: Path) -> None:
    with MetricLog(tmp_path, QUIET, "run", NO_ENVIRONMENT) as log:
        log.write(1, {"reward/mean": 0.25, "weight_version": 0})
        log.write(2, {"reward/mean": 0.5, "eval/sort_digits/pass_at_1": 1.0})
    assert rows_of(tmp_path) == [
        {"step": 1, "reward/mean": 0.25, "weight_version": 0.0},
        {"step": 2, "reward/mean": 0.5, "eval/sort_digits/pass_at_1": 1.0},
    ]


def test_a_step_is_on_disk_before_the_log_is_closed(tmp_path: Path) -> None:
    with MetricLog(tmp_path, QUIET, "run", NO_ENVIRONMENT) as log:
        log.write(1, {"entropy": 2.0})
        assert rows_of(tmp_path) == [{"step": 1, "entropy": 2.0}]


def test_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    with MetricLog(tmp_path, QUIET, "run", NO_ENVIRONMENT) as log:
        log.write(1, {"grad_norm": math.nan, "loss/total": math.inf, "entropy": 1.0})
    assert rows_of(tmp_path) == [{"step": 1, "grad_norm": None, "loss/total": None, "entropy": 1.0}]


def test_a_resumed_run_continues_its_file(tmp_path: Path) -> None:
    for step in (1, 2):
        with MetricLog(tmp_path, QUIET, "run", NO_ENVIRONMENT) as log:
            log.write(step, {"entropy": 1.0})
    assert [row["step"] for row in rows_of(tmp_path)] == [1, 2]


def test_an_unknown_name_is_refused_with_the_nearest_one_and_nothing_is_written(tmp_path: Path) -> None:
    with (
        MetricLog(tmp_path, QUIET, "run", NO_ENVIRONMENT) as log,
        pytest.raises(ValueError, match=r"'gradnorm'.*did you mean 'grad_norm'"),
    ):
        log.write(1, {"entropy": 1.0, "gradnorm": 1.0})
    assert rows_of(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["reward/sort_digits", "eval/openai/gsm8k/avg_at_8", "lr", "logprob_gap/p99"]
)
def test_known_names_and_members_of_families_pass(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", "reward/", "eval/gsm8k", "rewards/mean", "lr/", "<function>"])
def test_near_misses_do_not(name: str) -> None:
    with pytest.raises(ValueError):
        check_name(name)


def test_only_times_and_throughput_may_differ_between_equal_runs() -> None:
    assert {m.name for m in METRICS if not reproducible(m.name)} == {
        m.name for m in METRICS if m.name.startswith(("time/", "throughput/"))
    }


def test_the_documentation_page_is_the_table() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == markdown_page(), (
        "run: python -m mindrl.trainer.metric_names > docs/metrics.md"
    )


def test_tensorboard_gets_every_number_under_its_name(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricLog(tmp_path, LoggingConfig(), "run", NO_ENVIRONMENT) as log:
        log.write(1, {"reward/mean": 0.25, "eval/sort_digits/pass_at_1": 0.5})
        log.write(2, {"reward/mean": 0.75})
    events = EventAccumulator(str(tmp_path / "logs" / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["eval/sort_digits/pass_at_1", "reward/mean"]
    assert [(e.step, e.value) for e in events.Scalars("reward/mean")] == [(1, 0.25), (2, 0.75)]


def test_tensorboard_forgets_the_steps_that_a_resumed_run_takes_again(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    killed = MetricLog(tmp_path, LoggingConfig(), "run", NO_ENVIRONMENT)
    for step in range(1, 5):
        killed.write(step, {"reward/mean": step / 8})  # flushed: nothing depends on an orderly end
    time.sleep(1.1)  # event files are named after seconds
    with MetricLog(tmp_path, LoggingConfig(), "run", NO_ENVIRONMENT, steps_done=2) as log:
        log.write(3, {"reward/mean": 0.75})
    events = EventAccumulator(str(tmp_path / "logs" / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("reward/mean")] == [(1, 0.125), (2, 0.25), (3, 0.75)]
    killed.close(failed=True)


def test_wandb_keeps_its_run_id_over_a_restart_and_hears_of_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    environ = {"WANDB_MODE": "offline", "enable_wandb": "True"}
    monkeypatch.setenv("WANDB_MODE", "offline")
    codes: list[int] = []
    finish = wandb.sdk.wandb_run.Run.finish

    def finish_and_tell(run: Any, exit_code: int) -> None:
        codes.append(exit_code)
        finish(run, exit_code=exit_code)

    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "finish", finish_and_tell)
    with pytest.raises(ZeroDivisionError), MetricLog(tmp_path, QUIET, "a-run", environ) as log:
        log.write(1, {"reward/mean": 1 / 0})
    with MetricLog(tmp_path, QUIET, "a-run", environ) as log:
        log.write(1, {"reward/mean": 0.25})
    assert codes == [1, 0]
    run_id = (tmp_path / "logs" / "wandb_id").read_text()
    for folder in (tmp_path / "logs" / "wandb").glob("offline-run-*"):
        assert folder.name.endswith(run_id)


def test_wandb_offline_writes_under_the_run_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    environ = {"WANDB_MODE": "offline", "enable_wandb": "True", "wandb_project": "tried"}
    monkeypatch.setenv("WANDB_MODE", "offline")
    before = set(psutil.Process().children(recursive=True))
    with MetricLog(tmp_path, QUIET, "a-run", environ) as log:
        log.write(1, {"reward/mean": 0.25})
        log.write(2, {"reward/mean": 0.75})
    (run_file,) = (tmp_path / "logs" / "wandb").glob("offline-run-*/run-*.wandb")
    written = run_file.read_bytes()
    assert b"reward/mean" in written
    assert b"a-run" in written
    assert b"tried" in written
    left = [
        p for p in psutil.Process().children(recursive=True) if p not in before and p.status() != "zombie"
    ]
    assert left == []


def test_wandb_is_off_unless_asked_for() -> None:
    assert wandb_settings(LoggingConfig(), NO_ENVIRONMENT) is None
    assert wandb_settings(LoggingConfig(enable_wandb=True), {"WANDB_MODE": "disabled"}) is None


def test_the_environment_overrides_the_configuration() -> None:
    key = {"WANDB_API_KEY": "0" * 40}
    asked = LoggingConfig(enable_wandb=True, wandb_project="from-yaml")
    assert wandb_settings(asked, key) == WandbSettings("from-yaml", offline=False)
    assert wandb_settings(asked, {"enable_wandb": "False"}) is None
    assert wandb_settings(LoggingConfig(), key | {"enable_wandb": "True", "wandb_project": "mine"}) == (
        WandbSettings("mine", offline=False)
    )


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"enable_wandb": "True"}, "no API key"),
        ({"enable_wandb": "perhaps"}, "set it to True or False"),
        ({"enable_wandb": "True", "WANDB_MODE": "offlin"}, "choose online, offline or disabled"),
    ],
)
def test_wandb_that_cannot_be_served_is_refused(
    environ: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=message):
        MetricLog(tmp_path / "run", QUIET, "run", environ | {"NETRC": str(tmp_path / "none")})
    assert not (tmp_path / "run").exists()


def test_wandb_login_counts_as_a_key(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + "0" * 40)
    environ = {"enable_wandb": "1", "NETRC": str(tmp_path / "netrc")}
    assert wandb_settings(LoggingConfig(), environ) == WandbSettings("mindrl", offline=False)


def test_a_missing_wandb_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(sinks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="pip install wandb"):
        wandb_settings(LoggingConfig(enable_wandb=True), {"WANDB_API_KEY": "0" * 40})


def test_without_a_terminal_every_step_is_a_plain_line() -> None:
    stream = io.StringIO()
    line = ProgressLine(total_steps=3, stream=stream)
    line.step(
        1, {"reward/mean": 0.125, "response_length/mean": 6.0, "logprob_gap/max": 3e-6, "time/step": 0.5}
    )
    line.note("the learning rate is 0")
    line.step(3, {"reward/mean": 1.0})
    line.close()
    first, note, last = stream.getvalue().splitlines()
    assert first.startswith("step 1/3  reward 0.125  length 6.0  gap 3.0e-06  0.50 s/step  ")
    assert first.endswith(" left")
    assert note == "the learning rate is 0"
    assert last == "step 3/3  reward 1.000  00:00 left"
