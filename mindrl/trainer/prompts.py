"""The driver's handle on the prompts."""

from mindrl.workers.group import WorkerGroup
from mindrl.workers.messages import PromptBatch


class Prompts:
    """Asks the prompt worker for batches; what comes back are references."""

    def __init__(self, worker: WorkerGroup, num_prompts: int) -> None:
        self._worker = worker
        self._num_prompts = num_prompts

    def next_batch(self, step: int) -> PromptBatch:
        """The prompts of a step."""
        return self._worker.call("next_batch", step, self._num_prompts)[0]

    def state(self) -> dict[str, object]:
        """The position in the training prompts, as plain values."""
        return self._worker.call("state")[0]

    def load_state(self, state: dict[str, object]) -> None:
        """Continue from a position; `RequestError` where the data sets are not those of the position."""
        self._worker.call("load_state", state)

    def eval_batches(self, step: int) -> dict[str, PromptBatch]:
        """Every evaluation set by name."""
        return self._worker.call("eval_batches", step)[0]
