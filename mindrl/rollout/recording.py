"""What a run has recorded for `rollout.engine: replay`, and whether it answers another run's requests."""

from pathlib import Path

import pyarrow as pa

from mindrl.config import load
from mindrl.config.schema import Config
from mindrl.data.sample_file import lacking_columns, samples_path
from mindrl.errors import RequestError

SAME_REQUESTS = (
    "data.max_response_length",
    "data.seed",
    "rollout.n_samples",
    "rollout.temperature",
    "rollout.top_k",
    "rollout.top_p",
    "trainer.global_batch_size",
    "trainer.seed",
)
"""Keys on which requests depend. The prompts themselves are compared when they are asked."""


def check_recording(config: Config) -> None:
    """`RequestError` where `rollout.replay_from` can't answer every request of the run; reads no samples."""
    run_dir = config.rollout.replay_from
    if run_dir is None:
        return
    if not (run_dir / "config.yaml").is_file():
        raise RequestError(
            f"rollout.replay_from: {run_dir} holds no config.yaml, so it is no run directory; name the trainer.output_dir "
            "of the run to replay"
        )
    _compare(load(run_dir / "config.yaml"), config, run_dir)
    steps = range(1, config.trainer.total_steps + 1)
    missing = [step for step in steps if not samples_path(run_dir, step).exists()]
    if missing:
        raise RequestError(
            f"rollout.replay_from: {run_dir} holds no samples of step(s) {_shortened(missing)} of "
            f"{config.trainer.total_steps}; record the run with trainer.sample_interval=1, or take fewer steps "
            "(trainer.total_steps)"
        )
    for step in steps:
        _check_file(samples_path(run_dir, step))


def _compare(recorded: Config, config: Config, run_dir: Path) -> None:
    pairs = {key: (_value(recorded, key), _value(config, key)) for key in SAME_REQUESTS}
    different = [f"{key}: recorded with {a}, found {b}" for key, (a, b) in pairs.items() if a != b]
    if different:
        raise RequestError(
            "\n  ".join(
                [
                    f"rollout.replay_from: the run in {run_dir} was asked for other samples; give these keys the values "
                    "of its config.yaml",
                    *different,
                ]
            )
        )


def _check_file(path: Path) -> None:
    try:
        lacking = lacking_columns(path)
    except (pa.ArrowException, OSError) as error:
        raise RequestError(f"rollout.replay_from: {path} can't be read ({error})") from error
    if lacking:
        raise RequestError(
            f"rollout.replay_from: {path} lacks {', '.join(lacking)}, as files of earlier versions do; record the run again"
        )


def _value(config: Config, key: str) -> object:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def _shortened(steps: list[int]) -> str:
    return ", ".join(map(str, steps[:5])) + (", ..." if len(steps) > 5 else "")
