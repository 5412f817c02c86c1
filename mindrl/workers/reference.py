"""The reference: the frozen policy that KL is measured against."""

from collections.abc import Mapping

import torch

from mindrl.algorithms.kl import kl_estimate
from mindrl.config.algorithm import KlConfig
from mindrl.data.records import FloatArray, Sample
from mindrl.models.backend import TrainBackend


class ReferenceRole:
    """Log-probs of a step's samples under the initial policy. Without a backend there is no reference policy."""

    def __init__(self, backend: TrainBackend | None, kl: KlConfig) -> None:
        self._backend = backend
        self._kl = kl
        self._log_probs: dict[int, FloatArray] = {}

    def compute_log_probs(
        self, samples: Mapping[int, Sample], old_log_probs: Mapping[int, FloatArray]
    ) -> dict[int, float]:
        """Compute and keep the log-probs of `samples`.

        Returns:
            By sample_id, what the KL penalty takes from the sample's reward: `coef` times the sum of its tokens'
            estimates where `kl.placement` is `reward`, else nothing.
        """
        if self._backend is None:
            self._log_probs = {}
            return {}
        log_probs = self._backend.log_probs(list(samples.values()))
        self._log_probs = dict(zip(samples, log_probs, strict=True))
        if self._kl.placement == "loss":
            return {}
        return {
            sample_id: self._kl.coef * self._divergence(sample, old_log_probs[sample_id])
            for sample_id, sample in samples.items()
        }

    def log_probs(self) -> Mapping[int, FloatArray]:
        """What `compute_log_probs` found, by sample_id; empty without a reference policy."""
        return self._log_probs

    def _divergence(self, sample: Sample, policy_log_probs: FloatArray) -> float:
        estimate = kl_estimate(
            torch.from_numpy(policy_log_probs),
            torch.from_numpy(self._log_probs[sample.sample_id]),
            self._kl.estimator,
        )
        return float(estimate[torch.from_numpy(sample.response_mask)].sum())
