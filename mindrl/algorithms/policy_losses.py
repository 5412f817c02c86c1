"""Policy losses, token by token."""

import torch


def clipped_policy_loss(
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    *,
    clip_ratio_low: float,
    clip_ratio_high: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clipped surrogate of PPO (Schulman et al. 2017, equation 7), to be minimised.

    ``-min(ratio * A, clip(ratio, 1 - clip_ratio_low, 1 + clip_ratio_high) * A)`` with
    ``ratio = exp(log_probs - old_log_probs)``. Separate bounds are DAPO's clip-higher (Yu et al. 2025, section 3.1).

    Args:
        log_probs: [num_tokens] under the policy being trained; the only differentiable argument.
        old_log_probs: [num_tokens] under the policy at the start of the step.
        advantages: [num_tokens]

    Returns:
        losses [num_tokens], and a bool [num_tokens]: where the clip took the gradient away.
    """
    ratio = torch.exp(log_probs - old_log_probs)
    unclipped = -ratio * advantages
    clipped = -ratio.clamp(1 - clip_ratio_low, 1 + clip_ratio_high) * advantages
    return torch.maximum(unclipped, clipped), clipped > unclipped
