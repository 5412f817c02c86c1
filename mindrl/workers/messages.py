"""What travels between driver and workers.

The driver steers and does not carry: token arrays stay in Ray's object store or in the workers; what reaches the
driver is one small `SampleFacts` a sample, whatever its length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from mindrl.data.records import FinishReason, Sample


@dataclass(frozen=True, slots=True)
class SampleFacts:
    """What the driver knows of a sample."""

    sample_id: int
    group_id: int
    prompt_length: int
    response_length: int
    """Tokens of the response, the closing one included."""
    num_policy_tokens: int
    """Tokens that the policy chose: what losses count."""
    finish_reason: FinishReason
    weight_version: int
    """Oldest version of the weights that sampled one of its tokens."""

    @classmethod
    def of(cls, sample: Sample) -> "SampleFacts":
        """The facts of `sample`."""
        return cls(
            sample_id=sample.sample_id,
            group_id=sample.group_id,
            prompt_length=len(sample.prompt_ids),
            response_length=len(sample.response_ids),
            num_policy_tokens=int(sample.response_mask.sum()),
            finish_reason=sample.finish_reason,
            weight_version=int(sample.weight_version.min(initial=np.iinfo(np.int32).max)),
        )


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """Prompts of one step: `list[Prompt]` behind the reference."""

    step: int
    reference: ray.ObjectRef
    num_prompts: int


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """What one rollout engine made: `list[Sample]` behind the reference, and the facts in the same order."""

    reference: ray.ObjectRef
    facts: tuple[SampleFacts, ...]


@dataclass(frozen=True, slots=True)
class Rollout:
    """All samples of one step."""

    prompts: PromptBatch
    samples: tuple[ray.ObjectRef, ...]
    """One `list[Sample]` per engine."""
    facts: tuple[SampleFacts, ...]
    """In order of sample_id, which is 0 .. num_prompts * n_samples - 1."""

    @classmethod
    def join(cls, prompts: PromptBatch, outputs: Sequence[EngineOutput]) -> "Rollout":
        """Put the engines' outputs together."""
        facts = sorted((fact for output in outputs for fact in output.facts), key=lambda fact: fact.sample_id)
        return cls(prompts, tuple(output.reference for output in outputs), tuple(facts))


@dataclass(frozen=True, slots=True)
class Shard:
    """One data-parallel rank's share of a mini-batch; the samples themselves are with the rank already."""

    sample_ids: tuple[int, ...]
    advantages: tuple[float, ...]
    token_weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """What loading a checkpoint gave beside the workers' own state."""

    progress: dict[str, Any]
    """The driver's values, as they were saved."""
    same_layout: bool
    """Whether the workers' random generators could be loaded."""


@dataclass(frozen=True, slots=True)
class RewardFacts:
    """Scores of a step's samples, in order of sample_id."""

    rewards: tuple[float, ...]
    """[num_samples] weighted sum of the functions' scores."""
    by_function: dict[str, tuple[float, ...]]
    """[num_samples] unweighted score per function."""
    num_timeouts: int
    num_crashes: int
