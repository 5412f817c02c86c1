"""Holds the prompts, so that token arrays never pass through the driver."""

import ray

from mindrl.config.data import DataConfig
from mindrl.data.prompts import PromptStream, load_prompts
from mindrl.workers.messages import PromptBatch


class PromptWorker:
    """Deals out training prompts, and hands over the evaluation sets."""

    def __init__(self, data: DataConfig) -> None:
        self._stream = PromptStream(
            [(load_prompts(source.path), source.weight) for source in data.train], seed=data.seed
        )
        self._eval = {source.path.stem: load_prompts(source.path) for source in data.eval}

    def next_batch(self, step: int, num_prompts: int) -> PromptBatch:
        """The next `num_prompts` training prompts."""
        return PromptBatch(step, ray.put(self._stream.next_batch(num_prompts)), num_prompts)

    def state(self) -> dict[str, object]:
        """The position in the training prompts."""
        return self._stream.state()

    def load_state(self, state: dict[str, object]) -> None:
        """Continue from a position."""
        self._stream.load_state(state)

    def eval_batches(self, step: int) -> dict[str, PromptBatch]:
        """Every evaluation set, whole, by the name of its file."""
        return {
            name: PromptBatch(step, ray.put(list(prompts)), len(prompts))
            for name, prompts in self._eval.items()
        }
