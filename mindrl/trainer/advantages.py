"""Advantages of a step, and what they say about its groups."""

import torch

from mindrl.algorithms.advantages import group_advantages, zero_variance_groups
from mindrl.config.algorithm import AdvantageConfig
from mindrl.trainer.recorder import Recorder


class Advantages:
    """Computes advantages as the `algorithm.advantage` section says."""

    def __init__(self, config: AdvantageConfig, recorder: Recorder) -> None:
        self._config = config
        self._recorder = recorder

    def compute(self, rewards: torch.Tensor) -> torch.Tensor:
        """[num_prompts, n_samples] -> [num_prompts, n_samples]; groups that teach nothing are counted."""
        silent = zero_variance_groups(rewards).double().mean().item()
        self._recorder.add({"groups/zero_variance_fraction": silent})
        return group_advantages(
            rewards,
            normalize_std=self._config.normalize_std,
            std=self._config.std,
            epsilon=self._config.epsilon,
        )
