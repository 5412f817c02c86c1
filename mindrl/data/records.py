"""The data in flight, from a row of a data set to a scored response.

One prompt's way through a step, with `n_samples = 2` and prompt number 7 of the step::

    Prompt(uid="sort-000123", prompt_token_ids=[1, 40, 41], ground_truth="0347", ...)
      -> Request(sample_id=14, group_id=7, prompt_ids=[1, 40, 41], sampling=..., seed=...)
         Request(sample_id=15, group_id=7, prompt_ids=[1, 40, 41], sampling=..., seed=...)
      -> Sample(sample_id=14, group_id=7, response_ids=[52, 2], rollout_log_probs=[-0.1, -0.7],
                finish_reason="stop", weight_version=[3, 3], ...)
         Sample(sample_id=15, ...)

Arrays are numpy, so that a record can live in Ray's object store and be read without a copy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row of a preprocessed data set."""

    uid: str
    """Unique within its data set."""
    prompt: str
    """The text behind `prompt_token_ids`, template included."""
    prompt_token_ids: IntArray
    """[prompt_length] exactly what the rollout engine receives."""
    ground_truth: str
    """What a reward compares with."""
    data_source: str
    """Name of the set it came from."""
    extra: Mapping[str, object] = field(default_factory=dict[str, object])
    """Further columns, for rewards."""
    images: tuple[bytes, ...] = ()
    """Encoded images the prompt refers to."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw a response."""

    temperature: float
    """0 is greedy decoding."""
    max_tokens: int
    """Tokens the response may have, the closing one included."""
    top_p: float = 1.0
    top_k: int = -1
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end a response; the one that did is its last token."""


@dataclass(frozen=True, slots=True)
class Request:
    """One response to be generated."""

    sample_id: int
    """Unique within the step: group_id * n_samples + index in the group."""
    group_id: int
    """Position of the prompt in the step's batch."""
    prompt_ids: IntArray
    """[prompt_length]"""
    sampling: Sampling
    seed: int
    """Seeds this request's own generator, so that what is sampled does not depend on its neighbours."""
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One generated response, token by token."""

    sample_id: int
    group_id: int
    prompt_ids: IntArray
    """[prompt_length]"""
    response_ids: IntArray
    """[response_length] the closing token included, when there is one."""
    response_mask: npt.NDArray[np.bool_]
    """[response_length] which response tokens the policy chose (all, unless a tool wrote some)."""
    rollout_log_probs: FloatArray
    """[response_length] log-prob of each token under the sampling distribution, temperature included."""
    finish_reason: FinishReason
    """`stop`: closing token; `length`: cut at max_tokens; `abort`: taken back by the caller."""
    weight_version: IntArray
    """[response_length] version of the weights that sampled each token."""
