"""Group relative policy optimization (Shao et al. 2024, DeepSeekMath), on one page.

`fit` is the algorithm. Each line of it is a collaborator with one verb; how a verb is carried out over many devices,
timed, logged or saved is the collaborator's own business, and never an `if` in here.
"""

from mindrl.trainer.advantages import Advantages
from mindrl.trainer.checkpoints import Checkpoints
from mindrl.trainer.evaluator import Evaluator
from mindrl.trainer.learner import Learner
from mindrl.trainer.prompts import Prompts
from mindrl.trainer.recorder import Recorder
from mindrl.trainer.rewards import Rewards


class GrpoTrainer:
    """The driver of a run: it holds references and small facts, never tokens."""

    def __init__(
        self,
        prompts: Prompts,
        learner: Learner,
        rewards: Rewards,
        advantages: Advantages,
        evaluator: Evaluator,
        checkpoints: Checkpoints,
        recorder: Recorder,
    ) -> None:
        self.prompts = prompts
        self.learner = learner
        self.rewards = rewards
        self.advantages = advantages
        self.evaluator = evaluator
        self.checkpoints = checkpoints
        self.recorder = recorder

    def fit(self) -> None:
        """Train for `trainer.total_steps` steps."""
        done = self.checkpoints.restore()  # steps; 0 for a new run
        self.learner.sync_weights(version=done)
        self.evaluator.evaluate_first(done)

        for step in self.recorder.steps(done):
            prompts = self.prompts.next_batch(step)

            # Several responses to every prompt, sampled by the newest policy.
            rollout = self.learner.generate(prompts)
            rewards = self.rewards.score(rollout)  # [num_prompts, n_samples]

            # Log-probs that the loss compares with: the policy's own before this step, the reference policy's.
            self.learner.compute_old_log_probs(rollout)
            penalties = self.learner.compute_reference_log_probs()  # [num_prompts, n_samples]

            # A response is as good as it is better than its siblings.
            advantages = self.advantages.compute(rewards - penalties)  # [num_prompts, n_samples]

            for mini_batch in self.learner.mini_batches(rollout, advantages):
                self.learner.update(mini_batch, step)
            self.learner.sync_weights(version=step)

            self.rewards.write_samples(step, advantages)
            self.evaluator.evaluate(step)
            self.recorder.write(step)
            self.checkpoints.save(step)
