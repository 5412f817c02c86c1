"""The policy as the algorithm sees it: the workers' verbs, timed, recorded and fed with small facts."""

from collections.abc import Iterator

import torch

from mindrl.algorithms.reductions import token_weights
from mindrl.config.schema import Config
from mindrl.planning.batch import BatchPlan
from mindrl.trainer.recorder import Recorder
from mindrl.trainer.schedule import learning_rate
from mindrl.workers.messages import PromptBatch, Rollout, Shard
from mindrl.workers.policy import Policy

MiniBatch = tuple[Shard, ...]
"""One shard per data-parallel rank."""


class Learner:
    """Generates with the policy and improves it."""

    def __init__(self, policy: Policy, config: Config, plan: BatchPlan, recorder: Recorder) -> None:
        self._policy = policy
        self._config = config
        self._plan = plan
        self._recorder = recorder
        self._sums: dict[str, list[float]] = {}

    def sync_weights(self, version: int) -> None:
        """Bring the rollout engines to the newest weights."""
        with self._recorder.timed("sync"):
            self._policy.sync_weights(version)

    def generate(self, prompts: PromptBatch) -> Rollout:
        """`rollout.n_samples` responses to each prompt."""
        with self._recorder.timed("rollout"):
            rollout = self._policy.generate(prompts)
        lengths = torch.tensor([fact.response_length for fact in rollout.facts], dtype=torch.float64)
        truncated = [fact.finish_reason == "length" for fact in rollout.facts]
        self._recorder.add_tokens(sum(fact.prompt_length + fact.response_length for fact in rollout.facts))
        self._recorder.add(
            {
                "response_length/mean": lengths.mean().item(),
                "response_length/max": lengths.max().item(),
                "response_length/truncated_fraction": sum(truncated) / len(truncated),
                "weight_version": min(fact.weight_version for fact in rollout.facts),
            }
        )
        return rollout

    def compute_old_log_probs(self, rollout: Rollout) -> None:
        """Hand the samples to the ranks that train on them, and run the separate pass where it is needed."""
        with self._recorder.timed("update"):
            self._policy.receive(rollout)
            if self._config.recomputes_old_log_probs:
                self._recorder.add(self._policy.compute_old_log_probs())

    def compute_reference_log_probs(self) -> torch.Tensor:
        """Reference log-probs stay with the workers; returns what KL takes from rewards.

        Returns:
            [num_prompts, n_samples] float64; zeros unless `algorithm.kl.placement` is `reward`.
        """
        penalties = torch.zeros(self._plan.num_samples, dtype=torch.float64)
        if self._config.has_reference:
            with self._recorder.timed("reference"):
                by_id = self._policy.compute_reference_log_probs()
            for sample_id, penalty in by_id.items():
                penalties[sample_id] = penalty
        return penalties.view(-1, self._config.rollout.n_samples)

    def mini_batches(self, rollout: Rollout, advantages: torch.Tensor) -> Iterator[MiniBatch]:
        """Cut the step into mini-batches, each weighted so that its loss is the configured reduction over all of it."""
        self._sums = {}
        flat = advantages.flatten().tolist()
        for mini_batch in self._plan.mini_batches:
            ids = [sample_id for shard in mini_batch for sample_id in shard]
            weights = dict(
                zip(
                    ids,
                    token_weights(
                        [rollout.facts[sample_id].num_policy_tokens for sample_id in ids],
                        self._config.algorithm.reduction,
                        self._config.data.max_response_length,
                    ),
                    strict=True,
                )
            )
            yield tuple(
                Shard(shard, tuple(flat[i] for i in shard), tuple(weights[i] for i in shard))
                for shard in mini_batch
            )

    def update(self, mini_batch: MiniBatch, step: int) -> None:
        """One optimizer step; a step's metrics are the mean over its mini-batches.

        The log-prob gap comes from here only where there is one mini-batch, else from the pass for old log-probs."""
        lr = learning_rate(step, self._config)
        with self._recorder.timed("update"):
            metrics = self._policy.update(mini_batch, lr)
        for name, value in metrics.items():
            self._sums.setdefault(name, []).append(value)
        self._recorder.add({name: sum(values) / len(values) for name, values in self._sums.items()})
        self._recorder.add({"lr": lr})
