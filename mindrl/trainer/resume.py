"""Continuing a run: from which checkpoint, and what of its configuration may differ."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mindrl.checkpoint.directories import TRACKER_NAME, latest_iteration
from mindrl.checkpoint.formats.torch_dist import read_keys
from mindrl.config import load
from mindrl.config.base import Section
from mindrl.config.schema import Config
from mindrl.errors import RequestError
from mindrl.trainer.run_directory import RunDirectory

FREE = (
    "actor.micro_batch_size",
    "actor.pipeline_model_parallel_size",
    "actor.sequence_parallel",
    "actor.tensor_model_parallel_size",
    "cluster",
    "data.eval",
    "evaluation",
    "hal",
    "logging",
    "reference.micro_batch_size",
    "reward.timeout_seconds",
    "reward.workers",
    "rollout.engine",
    "rollout.engine_args",
    "rollout.gpu_memory_utilization",
    "rollout.logprob_gap_stop",
    "rollout.logprob_gap_warn",
    "rollout.replay_from",
    "rollout.tensor_parallel_size",
    "trainer.eval_interval",
    "trainer.keep_last",
    "trainer.output_dir",
    "trainer.sample_interval",
    "trainer.save_interval",
    "trainer.total_steps",
)
"""Keys, and sections, that a resumed run may change: what is learned does not depend on them, rounding aside, or as
with the length of the run, depends on them from here on. Every other key has to stay."""


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a run continues."""

    checkpoint: Path
    step: int
    """Steps that were done when it was saved."""


def find_resume_point(directory: RunDirectory) -> ResumePoint:
    """The run's latest complete checkpoint; `RequestError` where there is none."""
    tracker = directory.checkpoints / TRACKER_NAME
    if not tracker.exists():
        raise RequestError(
            f"--resume: there is nothing to resume in {directory.path}: {tracker} does not exist, so no checkpoint of the "
            "run is complete. Leave out --resume to start the run (with --overwrite, if an earlier start has left "
            "files there), or name the run's directory (trainer.output_dir=...)."
        )
    checkpoint, step = latest_iteration(directory.checkpoints)
    return ResumePoint(checkpoint.absolute(), step)


def check_resume(config: Config, directory: RunDirectory) -> list[str]:
    """`RequestError` with every reason why the run can't be continued with `config`; returns notices."""
    point = find_resume_point(directory)
    _check_contents(point)
    total = config.trainer.total_steps
    if point.step > total or (point.step == total and (directory.path / "summary.json").exists()):
        raise RequestError(
            f"--resume: the run in {directory.path} has taken {point.step} steps, and trainer.total_steps is {total}: "
            "nothing is left to do. Set a larger trainer.total_steps to go on."
        )
    notices = _compare(load(directory.path / "config.yaml"), config)
    return [f"resuming {directory.path} after step {point.step} of {total}", *notices]


def _check_contents(point: ResumePoint) -> None:
    keys = read_keys(point.checkpoint)
    parts = {"optimizer state": "optimizer.state.", "random generators": "generators."}
    missing = [part for part, prefix in parts.items() if not any(key.startswith(prefix) for key in keys)]
    if missing:
        raise RequestError(
            f"--resume: {point.checkpoint} holds no {' and no '.join(missing)}, so the run can't go on as it was. Start a "
            f"new one from its weights: model.checkpoint={point.checkpoint}, and another trainer.output_dir."
        )


def _compare(saved: Config, config: Config) -> list[str]:
    """Notices of what changes; `RequestError` for every key that must stay."""
    before, now = dict(_values(saved)), dict(_values(config))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    fixed = [key for key in changed if not any(key == free or key.startswith(f"{free}.") for free in FREE)]
    if fixed:
        lines = [f"{key}: the run has {before.get(key)!r}, found {now.get(key)!r}" for key in fixed]
        raise RequestError(
            "\n  ".join(
                [
                    "--resume: what the run learns from may not change on the way; restore these keys, or start a new run "
                    "(another trainer.output_dir) from its weights (model.checkpoint)",
                    *lines,
                ]
            )
        )
    notices = [f"changed from here on: {key} from {before.get(key)!r} to {now.get(key)!r}" for key in changed]
    schedule = config.actor.lr_schedule
    if "trainer.total_steps" in changed and schedule.name != "constant":
        notices.append(
            f"actor.lr_schedule: the {schedule.name} decay now ends at step {config.trainer.total_steps}, so the learning "
            "rate jumps to that curve"
        )
    return notices


def _values(section: Section, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys and their values; lists, and what other libraries take, are values as a whole."""
    plain = section.model_dump(mode="json")
    for name, value in section:
        if isinstance(value, Section):
            yield from _values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", plain[name]
