"""How a step's prompts become samples, mini-batches and micro-batches, and which rank trains on which sample.

With 4 prompts, 2 samples each, mini-batches of 2 prompts, 2 data-parallel ranks and micro-batches of 1::

    sample_id      0 1 2 3 | 4 5 6 7      prompt = sample_id // n_samples
    mini-batch     0 0 0 0 | 1 1 1 1      one optimizer step each
    rank           0 1 0 1 | 0 1 0 1      dealt in turn, so that a group's long responses are shared
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

from mindrl.config.schema import Config

SampleIds = tuple[int, ...]

MAX_SEQUENCES = 256
"""Responses that a rollout engine works on at once; more are queued."""


def sequences_per_engine(config: Config) -> int:
    """Responses that the engine with most prompts works on at once; prompts are dealt out in turn."""
    prompts = -(-config.trainer.global_batch_size // config.num_engines)
    return min(MAX_SEQUENCES, prompts * config.rollout.n_samples)


@dataclass(frozen=True)
class BatchPlan:
    """Batch arithmetic of a run, for sizes that `mindrl.config.rules` accepts."""

    num_prompts: int
    """Prompts per step: `trainer.global_batch_size`."""
    n_samples: int
    """Responses per prompt."""
    mini_batch_size: int
    """Prompts per optimizer step."""
    micro_batch_size: int
    """Samples per device in one forward and backward pass."""
    data_parallel_size: int
    """Copies of the actor."""
    total_steps: int

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The plan that a configuration asks for."""
        return cls(
            num_prompts=config.trainer.global_batch_size,
            n_samples=config.rollout.n_samples,
            mini_batch_size=config.actor.mini_batch_size,
            micro_batch_size=config.actor.micro_batch_size,
            data_parallel_size=config.data_parallel_size,
            total_steps=config.trainer.total_steps,
        )

    @property
    def num_samples(self) -> int:
        """Samples per step."""
        return self.num_prompts * self.n_samples

    @property
    def num_mini_batches(self) -> int:
        """Optimizer steps per step."""
        return self.num_prompts // self.mini_batch_size

    @property
    def samples_per_mini_batch(self) -> int:
        """Samples of all ranks in one optimizer step."""
        return self.mini_batch_size * self.n_samples

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of one rank in one optimizer step."""
        return self.samples_per_mini_batch // (self.data_parallel_size * self.micro_batch_size)

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.total_steps * self.num_mini_batches

    @cached_property
    def mini_batches(self) -> tuple[tuple[SampleIds, ...], ...]:
        """[num_mini_batches][data_parallel_size] sample_ids, in the order they are trained on."""
        size, ranks = self.samples_per_mini_batch, self.data_parallel_size
        return tuple(
            tuple(tuple(range(start + rank, start + size, ranks)) for rank in range(ranks))
            for start in range(0, self.num_samples, size)
        )

    def samples_of_rank(self, data_parallel_rank: int) -> SampleIds:
        """The sample_ids that a data-parallel rank trains on in one step, mini-batch after mini-batch."""
        return tuple(i for mini_batch in self.mini_batches for i in mini_batch[data_parallel_rank])
