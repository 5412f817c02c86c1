"""A run that was killed and resumed is the run that was not: same metrics, same weights, to the last bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from real_runs import ENVIRONMENT, QUICKSTART, ROOT, Files, Metrics, run_python, succeed

from mindrl.trainer.metric_names import reproducible

SAVED = 5
STEPS = 8
RUNS = ("whole", "parted")
SECONDS = 600
"""A limit, not a bar: a run takes some twenty seconds on two idle cores."""

pytestmark = pytest.mark.timeout(3 * SECONDS)


@dataclass(frozen=True)
class Case:
    """A request, and where its runs go."""

    overrides: tuple[str, ...]
    directory: Path

    def arguments(self, name: str, *more: str) -> list[str]:
        """Of Python, for the run called `name`."""
        return [
            "-m", "mindrl", "train", str(QUICKSTART), *self.overrides, f"trainer.total_steps={STEPS}",
            f"trainer.save_interval={SAVED}", f"trainer.output_dir={self.directory / name}", *more,
        ]  # fmt: skip

    def rows(self, name: str) -> Metrics:
        """metrics.jsonl without what depends on the machine's speed."""
        lines = (self.directory / name / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        return [{k: v for k, v in row.items() if k == "step" or reproducible(k)} for row in rows]

    def weights(self, name: str) -> bytes:
        """Of the last checkpoint, as a Hugging Face file."""
        target = self.directory / f"{name}-hf"
        succeed(
            "-m", "mindrl", "convert", "--load-model-type", "mg", "--save-model-type", "hf",
            "--load-dir", self.directory / name / "checkpoints", "--save-dir", target,
        )  # fmt: skip
        return (target / "model.safetensors").read_bytes()


def kill_in_the_step_after_the_checkpoint(arguments: Sequence[str], run: Path) -> None:
    """Start the run, and end it and all of its processes without warning once a checkpoint is complete."""
    log = (run.parent / "killed.log").open("w")
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    tracker = run / "checkpoints" / "latest_checkpointed_iteration.txt"
    deadline = time.monotonic() + SECONDS
    while not tracker.exists():
        assert process.poll() is None, (run.parent / "killed.log").read_text()
        assert time.monotonic() < deadline, f"no checkpoint within {SECONDS} s"
        time.sleep(0.01)
    processes = [process, *psutil.Process(process.pid).children(recursive=True)]
    for each in processes:
        try:
            os.kill(each.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    psutil.wait_procs([each for each in processes if isinstance(each, psutil.Process)], timeout=10)
    log.close()


def run_interrupted_and_not(case: Case) -> Case:
    """The runs `whole` and `parted`."""
    done = run_python(*case.arguments("whole"), timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    parted = case.arguments("parted", "trainer.keep_last=1")
    kill_in_the_step_after_the_checkpoint(parted, case.directory / "parted")
    shutil.copytree(case.directory / "parted", case.directory / "killed")
    assert case.rows("killed")[-1]["step"] < STEPS
    done = run_python(*parted, "--resume", timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    assert f"continuing after step {SAVED}" in done.stderr
    return case


@pytest.fixture(scope="module")
def mixed(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Two workers, a mixture of sets of which one starts over, evaluation, reference, two mini-batches a step."""
    directory = tmp_path_factory.mktemp("resume")
    rows = (files.prompts.parent / "train.jsonl").read_text().splitlines(keepends=True)
    (directory / "few.jsonl").write_text("".join(rows[:24]))
    succeed(
        "-m", "mindrl", "preprocess", "configs/datasets/sort_digits.yaml", f"input={directory / 'few.jsonl'}",
        f"output_prefix={directory / 'few'}", f"tokenizer_name_or_path={files.tied}",
    )  # fmt: skip
    few = directory / "few.parquet"
    overrides = (
        *files.overrides(files.tied),
        f"data.train=[{{path: {files.prompts}, weight: 2}}, {{path: {few}}}]", f"data.eval=[{{path: {few}}}]",
        "trainer.eval_interval=3", "actor.mini_batch_size=16", "actor.micro_batch_size=32",
    )  # fmt: skip
    return run_interrupted_and_not(Case(overrides, directory))


def test_a_killed_and_resumed_run_writes_the_metrics_of_one_that_was_not(mixed: Case):
    whole, parted = mixed.rows("whole"), mixed.rows("parted")
    assert [row["step"] for row in parted] == list(range(STEPS + 1))
    assert parted == whole
    assert any("eval/few/pass_at_1" in row for row in parted)
    summaries = [json.loads((mixed.directory / name / "summary.json").read_text()) for name in RUNS]
    for key in ("reward_first", "reward_last", "steps", "max_logprob_gap"):
        assert summaries[0][key] == summaries[1][key]


def test_a_killed_and_resumed_run_ends_with_the_weights_of_one_that_was_not(mixed: Case):
    assert mixed.weights("parted") == mixed.weights("whole")


def test_the_resumed_run_keeps_as_many_checkpoints_as_it_was_told(mixed: Case):
    found = {
        name: {path.name for path in (mixed.directory / name / "checkpoints").iterdir()} for name in RUNS
    }
    always = {"hf", "latest_checkpointed_iteration.txt", f"iter_{STEPS:07d}"}
    assert found == {"whole": always | {f"iter_{SAVED:07d}"}, "parted": always}


@pytest.mark.slow
def test_a_run_of_one_worker_continues_exactly_too(files: Files, tmp_path: Path):
    overrides = (*files.overrides(files.tied), "cluster.devices_per_node=1")
    case = run_interrupted_and_not(Case(overrides, tmp_path))
    assert case.rows("parted") == case.rows("whole")
    assert case.weights("parted") == case.weights("whole")


@pytest.mark.slow
def test_a_run_of_two_copies_continues_as_one_cut_in_two(mixed: Case):
    shutil.copytree(mixed.directory / "killed", mixed.directory / "cut")
    done = run_python(
        *mixed.arguments("cut", "--resume", "actor.tensor_model_parallel_size=2"), timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert "another layout" in done.stderr
    first, expected = mixed.rows("cut")[SAVED + 1], mixed.rows("whole")[SAVED + 1]
    for name in ("loss/total", "grad_norm", "kl/reference", "entropy"):
        assert first[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-6)
