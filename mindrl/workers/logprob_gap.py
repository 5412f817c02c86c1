"""The distance between what the trainer and the rollout engine think a token's probability is.

It should be rounding noise. Anything more means that the gradients belong to another distribution than the samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch.distributed as dist

from mindrl.data.records import FloatArray, Sample


class LogprobGapError(RuntimeError):
    """The gap exceeded `rollout.logprob_gap_stop`; the optimizer step was not taken."""


@dataclass(frozen=True, slots=True)
class LogprobGap:
    """|log p_train - log p_rollout| over all tokens of a step and all ranks; temperature included in both."""

    max: float
    mean: float
    p99: float
    worst_rank: int
    """Worker that holds the largest one."""
    weight_versions: tuple[int, ...]
    """Versions of the weights that sampled the tokens."""

    def metrics(self) -> dict[str, float]:
        """The figures under their metric names."""
        return {"logprob_gap/max": self.max, "logprob_gap/mean": self.mean, "logprob_gap/p99": self.p99}


def measure_logprob_gap(samples: Sequence[Sample], train_log_probs: Sequence[FloatArray]) -> LogprobGap:
    """Gap over the samples of all ranks; collective over the default group, same result on every rank.

    Args:
        samples: this rank's samples.
        train_log_probs: per sample [response_length], under the weights that sampled them.
    """
    gaps = [
        np.abs(log_probs - sample.rollout_log_probs)[sample.response_mask]
        for sample, log_probs in zip(samples, train_log_probs, strict=True)
    ]
    local = np.concatenate(gaps) if gaps else np.zeros(0, np.float32)
    versions = {int(v) for sample in samples for v in np.unique(sample.weight_version)}
    everyone: list[tuple[FloatArray, set[int]]] = [(local, versions)]
    if dist.is_initialized() and dist.get_world_size() > 1:
        everyone = [(local, versions)] * dist.get_world_size()
        dist.all_gather_object(everyone, (local, versions))
    # NaN compares as larger than anything, so that a broken model is never mistaken for a good one.
    maxima = [np.nan_to_num(part.max(initial=0.0), nan=np.inf) for part, _ in everyone]
    values = np.concatenate([part for part, _ in everyone])
    return LogprobGap(
        max=float(max(maxima)),
        mean=float(values.mean()) if len(values) else 0.0,
        p99=float(np.quantile(values, 0.99)) if len(values) else 0.0,
        worst_rank=int(np.argmax(maxima)),
        weight_versions=tuple(sorted(set().union(*(part for _, part in everyone)))),
    )


def check_logprob_gap(gap: LogprobGap, *, stop: float, step: int) -> None:
    """Raise `LogprobGapError` on every rank alike where the gap exceeds `stop`."""
    if gap.max > stop:
        raise LogprobGapError(
            f"step {step}: |log p_train - log p_rollout| reaches {gap.max:.3g} (mean {gap.mean:.3g}) on worker "
            f"{gap.worst_rank}, weight versions {list(gap.weight_versions)}; rollout.logprob_gap_stop is {stop:g}. "
            "Trainer and rollout engine disagree about the policy, so gradients would be wrong; the optimizer "
            "step was not taken. Look at dtype, kernels and sampling arguments, or raise the limit knowingly."
        )
