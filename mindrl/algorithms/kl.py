"""Estimators of the KL divergence from sampled tokens (Schulman 2020, Approximating KL Divergence).

With x sampled from p, and ``d = log q(x) - log p(x)``, each is an estimate of KL(p || q):

- k1 = -d             unbiased, can be negative, high variance
- k2 = d^2 / 2        biased, low variance
- k3 = e^d - 1 - d    unbiased, never negative, low variance
"""

from typing import Literal

import torch

KlEstimator = Literal["k1", "k2", "k3"]


def kl_estimate(
    log_probs: torch.Tensor, other_log_probs: torch.Tensor, estimator: KlEstimator
) -> torch.Tensor:
    """Per-token estimate of KL(policy || other) at tokens the policy sampled, same shape as its arguments.

    Differentiable in `log_probs`. As a loss, k2's gradient equals that of the true KL in expectation; k1's has
    expectation zero, so that k1 belongs into the reward.
    """
    difference = other_log_probs - log_probs
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference.square() / 2
    return torch.expm1(difference) - difference
