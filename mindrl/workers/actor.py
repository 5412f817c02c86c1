"""The actor: the policy that learns."""

from collections.abc import Mapping

import numpy as np

from mindrl.algorithms.objective import metrics_from_sums
from mindrl.config.schema import Config
from mindrl.data.records import FloatArray, Sample
from mindrl.models.backend import MiniBatch, TrainBackend
from mindrl.workers.logprob_gap import check_logprob_gap, measure_logprob_gap
from mindrl.workers.messages import Shard


class ActorRole:
    """Turns shards of scored samples into optimizer steps, and guards each against a log-prob gap."""

    def __init__(self, backend: TrainBackend, config: Config) -> None:
        self._backend = backend
        self._config = config
        self._step = 0
        self._samples: Mapping[int, Sample] = {}
        self._old_log_probs: dict[int, FloatArray] = {}

    def receive(self, step: int, samples: Mapping[int, Sample]) -> None:
        """Take this rank's samples of a step, by sample_id."""
        self._step = step
        self._samples = samples
        self._old_log_probs = {}

    def compute_old_log_probs(self) -> dict[str, float]:
        """Log-probs of the received samples before the step's first update; returns the gap metrics."""
        samples = list(self._samples.values())
        log_probs = self._backend.log_probs(samples)
        self._old_log_probs = dict(zip(self._samples, log_probs, strict=True))
        return self._guard(samples, log_probs)

    def update(self, shard: Shard, ref_log_probs: Mapping[int, FloatArray], lr: float) -> dict[str, float]:
        """One optimizer step; returns its metrics, equal on every rank."""
        samples = [self._samples[sample_id] for sample_id in shard.sample_ids]
        pick = shard.sample_ids
        stats = self._backend.accumulate_gradients(
            MiniBatch(
                samples=samples,
                advantages=np.asarray(shard.advantages, np.float32),
                token_weights=np.asarray(shard.token_weights, np.float32),
                old_log_probs=[self._old_log_probs[i] for i in pick] if self._old_log_probs else None,
                ref_log_probs=[ref_log_probs[i] for i in pick] if ref_log_probs else None,
            )
        )
        metrics = metrics_from_sums(stats.sums)
        if not self._old_log_probs:
            metrics |= self._guard(samples, stats.log_probs)
        metrics["grad_norm"] = self._backend.apply_gradients(lr)
        return metrics

    def old_log_probs(self) -> Mapping[int, FloatArray]:
        """What `compute_old_log_probs` found, by sample_id."""
        return self._old_log_probs

    def _guard(self, samples: list[Sample], log_probs: list[FloatArray]) -> dict[str, float]:
        gap = measure_logprob_gap(samples, log_probs)
        check_logprob_gap(gap, stop=self._config.rollout.logprob_gap_stop, step=self._step)
        return gap.metrics()
