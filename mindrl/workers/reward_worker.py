"""The reward role: decodes responses and scores them by rules, in processes that can be killed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import ray

from mindrl.config.rollout import RewardConfig
from mindrl.data.encoding import load_tokenizer
from mindrl.data.records import Prompt, Sample
from mindrl.data.sample_file import SampleRow, write_samples
from mindrl.rewards import RewardItem, RewardPool
from mindrl.workers.messages import RewardFacts, Rollout


class RewardWorker:
    """Scores the samples of a step; the texts stay here."""

    def __init__(self, reward: RewardConfig, tokenizer_dir: Path) -> None:
        self._tokenizer = load_tokenizer(tokenizer_dir)
        self._functions = reward.functions
        self._pool = RewardPool(
            [(function.name, function.weight) for function in reward.functions],
            timeout_seconds=reward.timeout_seconds,
            workers=reward.workers,
        )
        self._rows: list[SampleRow] = []

    def score(self, rollout: Rollout) -> RewardFacts:
        """Score every sample of `rollout`."""
        self._rows = []  # they hold on to the last step's arrays
        prompts: list[Prompt] = ray.get(rollout.prompts.reference)
        samples = _in_order(ray.get(list(rollout.samples)))
        responses = self._decode(samples)
        outcomes = self._pool.score(
            [
                RewardItem(
                    prompt=prompts[sample.group_id].prompt,
                    response=response,
                    ground_truth=prompts[sample.group_id].ground_truth,
                    extra=prompts[sample.group_id].extra,
                )
                for sample, response in zip(samples, responses, strict=True)
            ]
        )
        self._rows = [
            SampleRow(
                step=rollout.prompts.step,
                uid=prompts[sample.group_id].uid,
                prompt=prompts[sample.group_id].prompt,
                response=response,
                ground_truth=prompts[sample.group_id].ground_truth,
                reward=outcome.score,
                data_source=prompts[sample.group_id].data_source,
                advantage=float("nan"),
                sample=sample,
            )
            for sample, response, outcome in zip(samples, responses, outcomes, strict=True)
        ]
        return RewardFacts(
            rewards=tuple(outcome.score for outcome in outcomes),
            by_function={
                function.name: tuple(outcome.by_function[function.name] for outcome in outcomes)
                for function in self._functions
            },
            num_timeouts=sum(outcome.timed_out for outcome in outcomes),
            num_crashes=sum(outcome.crashed for outcome in outcomes),
        )

    def write_samples(self, path: Path, advantages: Sequence[float]) -> None:
        """Write the samples scored last, with their advantages."""
        write_samples(
            path, [replace(row, advantage=a) for row, a in zip(self._rows, advantages, strict=True)]
        )

    def close(self) -> None:
        """Stop the scoring processes."""
        self._pool.close()

    def _decode(self, samples: Sequence[Sample]) -> list[str]:
        return self._tokenizer.batch_decode(
            [np.asarray(sample.response_ids).tolist() for sample in samples], skip_special_tokens=True
        )


def _in_order(engines: Sequence[Sequence[Sample]]) -> list[Sample]:
    return sorted((sample for samples in engines for sample in samples), key=lambda sample: sample.sample_id)
