"""Evaluation while training, with the engines and the weights at hand."""

from mindrl.evaluation.result import ScoredResponse, summarize
from mindrl.trainer.prompts import Prompts
from mindrl.trainer.recorder import Recorder
from mindrl.trainer.rewards import Rewards
from mindrl.workers.policy import Policy


class Evaluator:
    """Evaluates on `data.eval` before the first step, every `interval` steps, and after the last."""

    def __init__(
        self,
        policy: Policy,
        prompts: Prompts,
        rewards: Rewards,
        recorder: Recorder,
        *,
        interval: int,
        total_steps: int,
        full_score: float,
    ) -> None:
        """`full_score`: what a response earns that satisfies every reward function."""
        self._policy = policy
        self._prompts = prompts
        self._rewards = rewards
        self._recorder = recorder
        self._interval = interval
        self._total_steps = total_steps
        self._correct_at = min(1.0, full_score)

    def evaluate_first(self, done: int) -> None:
        """Evaluate the initial weights, unless steps are `done`; metrics.jsonl has them as step 0."""
        if self._interval and done == 0:
            self._evaluate(0)
        self._recorder.write_now(0)

    def evaluate(self, step: int) -> None:
        """Evaluate where the step's turn has come."""
        if self._interval and (step % self._interval == 0 or step == self._total_steps):
            self._evaluate(step)

    def _evaluate(self, step: int) -> None:
        with self._recorder.timed("evaluation"):
            for name, batch in self._prompts.eval_batches(step).items():
                rollout = self._policy.evaluate(batch)
                scores = self._rewards.facts(rollout).rewards
                responses = [
                    ScoredResponse(
                        group_id=fact.group_id,
                        data_source=name,
                        score=score,
                        response_length=fact.response_length,
                        truncated=fact.finish_reason == "length",
                    )
                    for fact, score in zip(rollout.facts, scores, strict=True)
                ]
                self._recorder.add(summarize(responses, self._correct_at).metrics())
