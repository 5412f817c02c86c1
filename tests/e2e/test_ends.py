"""How runs end that do not end well: with the right code, in time, and with nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from real_runs import ENVIRONMENT, QUICKSTART, ROOT, Files, run_python

START_SECONDS = 240
END_SECONDS = 10


def shared_memory_of(processes: list[psutil.Process]) -> set[Path]:
    """Files in /dev/shm that the processes have mapped or open; other tests may have some of their own."""
    paths = {
        path
        for process in processes
        for path in (
            *(mapping.path for mapping in process.memory_maps()),
            *(os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir() if link.exists()),
        )
    }
    return {Path(path) for path in paths if path.startswith("/dev/shm/") and not path.endswith("(deleted)")}


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "TERM"])
def test_an_interrupted_run_ends_within_ten_seconds_and_leaves_nothing(
    files: Files, tmp_path: Path, stop: signal.Signals
):
    output = tmp_path / "run"
    command = [
        sys.executable, "-m", "mindrl", "train", QUICKSTART, *files.overrides(files.tied),
        "trainer.total_steps=100000", f"trainer.output_dir={output}",
    ]  # fmt: skip
    log = (tmp_path / "log").open("w")
    run = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for_a_step(output / "metrics.jsonl", run)
        children = psutil.Process(run.pid).children(recursive=True)
        assert len(children) > 3  # Ray's own processes, two policy workers, the services
        shared = shared_memory_of(children)
        run.send_signal(stop)
        assert run.wait(timeout=END_SECONDS) == 130
    finally:
        log.close()
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    assert not [path for path in shared if path.exists()]


def wait_for_a_step(metrics: Path, run: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not (metrics.exists() and metrics.read_text()):
        assert run.poll() is None, f"the run ended with {run.returncode}"
        assert time.monotonic() < deadline, f"no step within {START_SECONDS} s"
        time.sleep(0.2)


def test_a_log_prob_gap_above_the_limit_stops_the_run_and_says_where(files: Files, tmp_path: Path):
    done = run_python(
        "-m", "mindrl", "train", QUICKSTART, *files.overrides(files.tied), f"trainer.output_dir={tmp_path / 'run'}",
        "rollout.logprob_gap_stop=1e-9", "rollout.logprob_gap_warn=1e-10",
    )  # fmt: skip
    assert done.returncode == 1
    for words in ("step 1", "worker", "weight versions [0]", "rollout.logprob_gap_stop"):
        assert words in done.stderr


def test_an_existing_run_is_kept_unless_told_otherwise(files: Files, tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text("precious")
    arguments = ["-m", "mindrl", "train", QUICKSTART, *files.overrides(files.tied)]
    arguments += [f"trainer.output_dir={tmp_path}", "--check"]
    done = run_python(*arguments)
    assert done.returncode == 2
    assert "--overwrite" in done.stderr
    assert run_python(*arguments, "--overwrite").returncode == 0
    assert (tmp_path / "metrics.jsonl").read_text() == "precious"  # --check only looks
