"""The loss of a micro-batch, put together from the policy loss, the KL penalty and the entropy bonus."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mindrl.algorithms.kl import KlEstimator, kl_estimate
from mindrl.algorithms.policy_losses import clipped_policy_loss
from mindrl.config.algorithm import AlgorithmConfig

NUM_TOKENS = "num_tokens"
LOSSES = ("loss/policy", "loss/total")
TOKEN_SUMS = ("kl/reference", "kl/ppo", "entropy", "clip_fraction")


@dataclass(frozen=True, slots=True)
class PolicyObjective:
    """``sum of w_t * (policy_loss_t + kl_coef * kl_t - entropy_coef * entropy_t)`` over response tokens t.

    The weights w_t carry the whole normalisation (`mindrl.algorithms.reductions`).
    """

    clip_ratio_low: float
    clip_ratio_high: float
    kl_estimator: KlEstimator
    kl_coef: float
    """Weight of the KL penalty in the loss; 0 where the penalty is part of the reward."""
    entropy_coef: float

    @classmethod
    def from_config(cls, algorithm: AlgorithmConfig) -> "PolicyObjective":
        """The objective that the `algorithm` section asks for."""
        return cls(
            clip_ratio_low=algorithm.policy_loss.clip_ratio_low,
            clip_ratio_high=algorithm.policy_loss.clip_ratio_high,
            kl_estimator=algorithm.kl.estimator,
            kl_coef=algorithm.kl.coef if algorithm.kl.placement == "loss" else 0.0,
            entropy_coef=algorithm.entropy_coef,
        )

    @property
    def needs_advantage(self) -> bool:
        """Whether a response with advantage 0 has no gradient, because nothing but the policy loss counts.

        So has a whole group whose responses all got the same reward."""
        return self.kl_coef == 0 and self.entropy_coef == 0

    def __call__(
        self,
        log_probs: torch.Tensor,
        entropy: torch.Tensor,
        *,
        old_log_probs: torch.Tensor | None,
        ref_log_probs: torch.Tensor | None,
        advantages: torch.Tensor,
        token_weights: torch.Tensor,
        mask: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss and metric sums of flat response tokens, every argument [num_tokens] float (mask: bool).

        Args:
            log_probs: under the policy being trained, differentiable.
            entropy: of the policy at each position, differentiable where `entropy_coef` > 0.
            old_log_probs: None stands for the current ones, detached: ratio 1 with the right gradient.
            ref_log_probs: None without a reference policy.
            mask: tokens that count; the others (padding, tokens a tool wrote) add nothing.

        Returns:
            The loss, a scalar sum; and detached sums: `num_tokens`, weighted `loss/*`, unweighted token sums of
            the other metrics. Sums of several micro-batches and ranks add up; `metrics_from_sums` divides.
        """
        old = log_probs.detach() if old_log_probs is None else old_log_probs
        losses, clipped = clipped_policy_loss(
            log_probs,
            old,
            advantages,
            clip_ratio_low=self.clip_ratio_low,
            clip_ratio_high=self.clip_ratio_high,
        )
        weights = token_weights * mask
        policy_loss = _masked_sum(losses, weights)
        loss = policy_loss
        sums = {
            NUM_TOKENS: mask.sum(),
            "kl/ppo": _masked_sum(kl_estimate(old, log_probs.detach(), "k3"), mask),  # the old one sampled
            "entropy": _masked_sum(entropy.detach(), mask),
            "clip_fraction": _masked_sum(clipped, mask),
        }
        if ref_log_probs is not None:
            kl = kl_estimate(log_probs, ref_log_probs, self.kl_estimator)
            sums["kl/reference"] = _masked_sum(kl.detach(), mask)
            if self.kl_coef:
                loss = loss + self.kl_coef * _masked_sum(kl, weights)
        if self.entropy_coef:
            loss = loss - self.entropy_coef * _masked_sum(entropy, weights)
        sums["loss/policy"] = policy_loss.detach()
        sums["loss/total"] = loss.detach()
        return loss, sums


def metrics_from_sums(sums: Mapping[str, float]) -> dict[str, float]:
    """Turn globally added sums into metrics: losses as they are, the rest as means over tokens."""
    num_tokens = max(1.0, sums[NUM_TOKENS])
    metrics = {name: sums[name] for name in LOSSES}
    metrics |= {name: sums[name] / num_tokens for name in TOKEN_SUMS if name in sums}
    return metrics


def _masked_sum(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum of values * weights in which a weight of 0 silences even an infinite or NaN value."""
    return torch.where(weights != 0, values.float() * weights, 0.0).sum()
