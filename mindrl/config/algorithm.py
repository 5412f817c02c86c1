"""GRPO's choices: advantage, policy loss, KL, reduction."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from mindrl.config.base import Section


class AdvantageConfig(Section):
    """Advantage of a response relative to its group (Shao et al. 2024, DeepSeekMath, section 4.1)."""

    name: Literal["group"] = "group"
    """`group`: reward minus the group's mean."""
    normalize_std: bool = True
    """Divide by the group's standard deviation; False gives Dr. GRPO's advantage (Liu et al. 2025)."""
    std: Literal["unbiased", "population"] = "unbiased"
    """Divide the squared deviations by n - 1 (as torch.std) or by n."""
    epsilon: PositiveFloat = 1e-6
    """Added to the standard deviation."""


class PolicyLossConfig(Section):
    """Clipped surrogate (Schulman et al. 2017, equation 7), with separate bounds (Yu et al. 2025, DAPO)."""

    name: Literal["clip"] = "clip"
    """`clip`: the smaller of the plain and the clipped surrogate, token by token."""
    clip_ratio_low: float = Field(default=0.2, gt=0.0, lt=1.0)
    """The probability ratio is clipped below at 1 - clip_ratio_low."""
    clip_ratio_high: PositiveFloat = 0.2
    """The probability ratio is clipped above at 1 + clip_ratio_high."""


class KlConfig(Section):
    """Penalty for leaving the reference policy."""

    estimator: Literal["k1", "k2", "k3"] = "k3"
    """Per-token estimator (Schulman 2020, Approximating KL divergence)."""
    coef: NonNegativeFloat = 0.0
    """Weight of the penalty; 0 runs without a reference policy."""
    placement: Literal["loss", "reward"] = "loss"
    """Add the penalty to the loss, token by token, or take its sum over a response from the response's reward."""


class AlgorithmConfig(Section):
    """Group relative policy optimization."""

    advantage: AdvantageConfig = AdvantageConfig()
    policy_loss: PolicyLossConfig = PolicyLossConfig()
    kl: KlConfig = KlConfig()
    entropy_coef: NonNegativeFloat = 0.0
    """Weight of the entropy bonus."""
    reduction: Literal["token_mean", "sequence_mean", "sequence_sum"] = "token_mean"
    """How token losses become one number: mean over all tokens of the mini-batch (DAPO); mean over each
    response, then over responses (GRPO); sum over a response divided by max_response_length, then mean
    over responses (Dr. GRPO)."""
    old_log_probs: Literal["auto", "recompute"] = "auto"
    """`auto` skips the separate pass for old log-probs exactly when each batch gets one optimizer step, where
    the result is the same; `recompute` always runs it."""
