"""The whole configuration: one section a role, and the rules between them."""

from typing import Self

from pydantic import model_validator

from mindrl.config import rules
from mindrl.config.actor import ActorConfig, ReferenceConfig
from mindrl.config.algorithm import AlgorithmConfig
from mindrl.config.base import Section
from mindrl.config.data import DataConfig
from mindrl.config.explain import BrokenRules
from mindrl.config.model import ModelConfig
from mindrl.config.rollout import EvaluationConfig, RewardConfig, RolloutConfig
from mindrl.config.runtime import ClusterConfig, HalConfig
from mindrl.config.trainer import LoggingConfig, TrainerConfig


class Config(Section):
    """One GRPO run."""

    hal: HalConfig = HalConfig()
    cluster: ClusterConfig = ClusterConfig()
    model: ModelConfig
    data: DataConfig
    actor: ActorConfig
    reference: ReferenceConfig | None = ReferenceConfig()
    rollout: RolloutConfig
    reward: RewardConfig
    algorithm: AlgorithmConfig = AlgorithmConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    trainer: TrainerConfig
    logging: LoggingConfig = LoggingConfig()

    @property
    def data_parallel_size(self) -> int:
        """Copies of the actor that share each mini-batch."""
        return self.cluster.world_size // self.actor.model_parallel_size

    @property
    def num_engines(self) -> int:
        """Rollout engines that share each batch of prompts."""
        return self.cluster.world_size // self.rollout.tensor_parallel_size

    @property
    def max_sequence_length(self) -> int:
        """Tokens of the longest prompt with the longest response."""
        return self.data.max_prompt_length + self.data.max_response_length

    @property
    def has_reference(self) -> bool:
        """Whether there is a reference policy."""
        return self.algorithm.kl.coef > 0

    @property
    def recomputes_old_log_probs(self) -> bool:
        """Whether old log-probs need a pass of their own.

        With one optimizer step per batch they are the ones of the update itself, detached: the ratio is exactly 1 and
        its gradient the same, so the pass is left out. KL in the reward needs them before the update."""
        one_update = self.trainer.global_batch_size == self.actor.mini_batch_size
        kl_in_reward = self.has_reference and self.algorithm.kl.placement == "reward"
        return self.algorithm.old_log_probs == "recompute" or not one_update or kl_in_reward

    @model_validator(mode="after")
    def _rules_between_keys_hold(self) -> Self:
        if sentences := rules.broken(self):
            raise BrokenRules(sentences)
        return self
