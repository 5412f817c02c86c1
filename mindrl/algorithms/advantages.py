"""Advantages of grouped responses."""

from typing import Literal

import torch


def group_advantages(
    rewards: torch.Tensor,
    *,
    normalize_std: bool = True,
    std: Literal["unbiased", "population"] = "unbiased",
    epsilon: float = 1e-6,
) -> torch.Tensor:
    """Advantage of each response relative to the other responses to its prompt.

    Group relative policy optimization (Shao et al. 2024, DeepSeekMath, section 4.1.2):
    ``A_i = (r_i - mean(r)) / (std(r) + epsilon)``; without the division it is Dr. GRPO's (Liu et al. 2025).

    A group of one response, or one whose rewards are all equal, gets advantages of exactly 0, never NaN.

    Args:
        rewards: [num_prompts, n_samples] one row a group.
        normalize_std: divide by the group's standard deviation.
        std: `unbiased` divides the squared deviations by n - 1, `population` by n.
        epsilon: added to the standard deviation.

    Returns:
        [num_prompts, n_samples], in the type of `rewards`.
    """
    centered = rewards - rewards.mean(dim=1, keepdim=True)
    # The mean of equal numbers may differ from them by a rounding error, which a tiny deviation would blow up.
    centered = centered.masked_fill(zero_variance_groups(rewards)[:, None], 0.0)
    if not normalize_std:
        return centered
    degrees_of_freedom = max(1, rewards.shape[1] - (1 if std == "unbiased" else 0))
    deviation = (centered.square().sum(dim=1, keepdim=True) / degrees_of_freedom).sqrt()
    return centered / (deviation + epsilon)


def zero_variance_groups(rewards: torch.Tensor) -> torch.Tensor:
    """[num_prompts] bool: groups whose responses all got the same reward, which teach nothing.

    Args:
        rewards: [num_prompts, n_samples]
    """
    return (rewards == rewards[:, :1]).all(dim=1)
