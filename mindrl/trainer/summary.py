"""summary.json: what a run came to."""

import math
from collections.abc import Mapping, Sequence

LAST_STEPS = 10


def summarize(
    rows: Sequence[Mapping[str, float | None]], *, seconds: float, device: str, world_size: int
) -> dict[str, object]:
    """The run in a few figures.

    Args:
        rows: metrics of each finished step under `step`; 0 is the evaluation before the first.
        seconds: wall time of the training, evaluations and checkpoints included, without starting and stopping workers;
            of a resumed run since it was resumed.

    Returns:
        `reward_first`: mean reward of the first step, sampled before any update; `reward_last`: mean over the last
        ten steps; `tokens_per_second`: mean over steps, all devices; `max_logprob_gap`: largest of the run.
    """
    history = [_numbers(row) for row in rows if row["step"]]
    last = [metrics["reward/mean"] for metrics in history[-LAST_STEPS:]]
    rates = [metrics["throughput/tokens_per_second"] for metrics in history]
    return {
        "reward_first": history[0]["reward/mean"],
        "reward_last": sum(last) / len(last),
        "steps": len(history),
        "seconds": seconds,
        "tokens_per_second": sum(rates) / len(rates),
        "max_logprob_gap": max(metrics["logprob_gap/max"] for metrics in history),
        "device": device,
        "world_size": world_size,
    }


def _numbers(row: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in row.items()}
