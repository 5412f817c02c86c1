"""The driver's handle on the prompts."""

from typing import Any

import ray

from mindrl.workers.messages import PromptBatch


class Prompts:
    """Asks the prompt worker for batches; what comes back are references."""

    def __init__(self, worker: Any, num_prompts: int, timeout_seconds: float) -> None:
        self._worker = worker
        self._num_prompts = num_prompts
        self._timeout_seconds = timeout_seconds

    def next_batch(self, step: int) -> PromptBatch:
        """The prompts of a step."""
        return ray.get(self._worker.next_batch.remote(step, self._num_prompts), timeout=self._timeout_seconds)

    def eval_batches(self, step: int) -> dict[str, PromptBatch]:
        """Every evaluation set by name."""
        return ray.get(self._worker.eval_batches.remote(step), timeout=self._timeout_seconds)
