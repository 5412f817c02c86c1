"""The rollout role: prompts in, samples out, through this rank's engine."""

from collections.abc import Iterable, Sequence

import torch

from mindrl.config.schema import Config
from mindrl.data.records import Prompt, Sample, Sampling
from mindrl.data.requests import make_requests
from mindrl.rollout.engine import RolloutEngine, generate


class RolloutRole:
    """Makes requests of prompts, and runs the engine on them."""

    def __init__(self, engine: RolloutEngine, config: Config, stop_token_ids: tuple[int, ...]) -> None:
        self._engine = engine
        self._seed = config.trainer.seed
        self._train = Sampling(
            temperature=config.rollout.temperature,
            max_tokens=config.data.max_response_length,
            top_p=config.rollout.top_p,
            top_k=config.rollout.top_k,
            stop_token_ids=stop_token_ids,
        )
        self._evaluate = Sampling(
            temperature=config.evaluation.temperature,
            max_tokens=config.data.max_response_length,
            stop_token_ids=stop_token_ids,
        )
        self._train_samples = config.rollout.n_samples
        self._evaluate_samples = config.evaluation.n_samples

    def generate(self, prompts: Sequence[Prompt], group_ids: Iterable[int], step: int) -> list[Sample]:
        """`rollout.n_samples` responses to each prompt named by its position in `prompts`."""
        return self._run(prompts, group_ids, step, self._train, self._train_samples)

    def evaluate(self, prompts: Sequence[Prompt], group_ids: Iterable[int], step: int) -> list[Sample]:
        """`evaluation.n_samples` responses to each prompt named by its position in `prompts`."""
        return self._run(prompts, group_ids, step, self._evaluate, self._evaluate_samples)

    def update_weights(self, tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Give the engine new weights."""
        self._engine.update_weights(tensors, version)

    def close(self) -> None:
        """Free the engine; the default process group may be gone afterwards."""
        self._engine.close()

    def _run(
        self, prompts: Sequence[Prompt], group_ids: Iterable[int], step: int, sampling: Sampling, n: int
    ) -> list[Sample]:
        requests = make_requests(prompts, group_ids, sampling, n, (self._seed, step))
        return generate(self._engine, requests)
