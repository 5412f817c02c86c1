"""The driver's handle on the reward worker."""

from pathlib import Path

import torch

from mindrl.data.sample_file import samples_path
from mindrl.trainer.recorder import Recorder
from mindrl.workers.group import WorkerGroup
from mindrl.workers.messages import RewardFacts, Rollout


class Rewards:
    """Has rollouts scored, and samples written with their scores."""

    def __init__(
        self,
        worker: WorkerGroup,
        recorder: Recorder,
        *,
        run_dir: Path,
        sample_interval: int,
        total_steps: int,
    ) -> None:
        self._worker = worker
        self._recorder = recorder
        self._run_dir = run_dir
        self._sample_interval = sample_interval
        self._total_steps = total_steps

    def score(self, rollout: Rollout) -> torch.Tensor:
        """Rewards [num_prompts, n_samples] float64."""
        with self._recorder.timed("reward"):
            facts = self.facts(rollout)
        rewards = torch.tensor(facts.rewards, dtype=torch.float64)
        self._recorder.add(
            {
                "reward/mean": rewards.mean().item(),
                "reward/std": rewards.std(correction=0).item(),
                "reward/timeout_fraction": (facts.num_timeouts + facts.num_crashes) / len(rewards),
                **{f"reward/{name}": sum(scores) / len(scores) for name, scores in facts.by_function.items()},
            }
        )
        return rewards.view(rollout.prompts.num_prompts, -1)

    def facts(self, rollout: Rollout) -> RewardFacts:
        """Scores without recording them as the step's."""
        return self._worker.call("score", rollout)[0]

    def write_samples(self, step: int, advantages: torch.Tensor) -> None:
        """Write the step's samples where its turn has come: first, last, every `trainer.sample_interval`."""
        due = self._sample_interval and step % self._sample_interval == 0
        if due or step in (1, self._total_steps):
            path = samples_path(self._run_dir, step)
            self._worker.call("write_samples", path, advantages.flatten().tolist())
