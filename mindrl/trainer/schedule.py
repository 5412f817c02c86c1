"""Learning rate over a run."""

import math

from mindrl.config.schema import Config


def learning_rate(step: int, config: Config) -> float:
    """Learning rate of a training step, counted from 1.

    Rises linearly over `warmup_steps` to the peak, then follows the schedule down to `min_lr` at the last step.
    """
    peak = config.actor.optimizer.lr
    schedule = config.actor.lr_schedule
    if step <= schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    if schedule.name == "constant":
        return peak
    progress = (step - schedule.warmup_steps) / max(1, config.trainer.total_steps - schedule.warmup_steps)
    remaining = 1 - progress if schedule.name == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return schedule.min_lr + (peak - schedule.min_lr) * remaining
