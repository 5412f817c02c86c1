"""What both engines share about requests in flight: which are refused, and what each has so far."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mindrl.data.records import FinishReason, Request, Sample


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine can serve."""

    max_model_length: int
    """Tokens of a prompt and its response together."""
    vocab_size: int
    """Prompt ids lie in [0, vocab_size)."""


@dataclass(slots=True)
class InFlight:
    """One request and the tokens sampled for it so far."""

    request: Request
    token_ids: list[int] = field(default_factory=list[int])
    log_probs: list[float] = field(default_factory=list[float])
    versions: list[int] = field(default_factory=list[int])

    def add(self, token_id: int, log_prob: float, version: int) -> None:
        """Append one sampled token."""
        self.token_ids.append(token_id)
        self.log_probs.append(log_prob)
        self.versions.append(version)

    def sample(self, finish_reason: FinishReason) -> Sample:
        """The response as it stands."""
        return Sample(
            sample_id=self.request.sample_id,
            group_id=self.request.group_id,
            prompt_ids=self.request.prompt_ids,
            response_ids=np.asarray(self.token_ids, dtype=np.int32),
            response_mask=np.ones(len(self.token_ids), dtype=np.bool_),
            rollout_log_probs=np.asarray(self.log_probs, dtype=np.float32),
            finish_reason=finish_reason,
            weight_version=np.asarray(self.versions, dtype=np.int32),
        )


class Ledger:
    """Requests in flight by sample_id, in the order they came."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._entries: dict[int, InFlight] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, sample_id: int) -> InFlight:
        return self._entries[sample_id]

    def open(self, requests: Sequence[Request], weight_version: int) -> list[InFlight]:
        """Check all requests, then enter them: either all are taken or none. `ValueError` names the bad one."""
        if requests and weight_version < 0:
            raise ValueError(
                f"{len(requests)} requests came before the first update_weights; the engine has no weights yet"
            )
        taken = set(self._entries)
        for request in requests:
            if request.sample_id in taken:
                raise ValueError(f"sample_id {request.sample_id} is already in flight; each must be unique")
            taken.add(request.sample_id)
            _check(request, self.limits)
        entries = [InFlight(request) for request in requests]
        self._entries.update({entry.request.sample_id: entry for entry in entries})
        return entries

    def close(self, sample_id: int, finish_reason: FinishReason) -> Sample:
        """Take one request out and return its response."""
        return self._entries.pop(sample_id).sample(finish_reason)

    def known(self, sample_ids: Iterable[int]) -> list[int]:
        """The ids, each once; `ValueError` names those that are not in flight."""
        wanted = list(dict.fromkeys(sample_ids))
        unknown = [sample_id for sample_id in wanted if sample_id not in self._entries]
        if unknown:
            raise ValueError(f"sample_ids {unknown} are not in flight, so they can't be aborted")
        return wanted


def _check(request: Request, limits: Limits) -> None:
    prompt_length, sampling = len(request.prompt_ids), request.sampling
    name = f"request {request.sample_id}"
    if request.images:
        raise ValueError(f"{name} has {len(request.images)} images; this engine serves text only")
    if prompt_length == 0:
        raise ValueError(f"{name} has an empty prompt")
    if sampling.max_tokens < 1:
        raise ValueError(f"{name} asks for max_tokens={sampling.max_tokens}; it must be at least 1")
    if prompt_length + sampling.max_tokens > limits.max_model_length:
        raise ValueError(
            f"{name} needs {prompt_length} prompt + {sampling.max_tokens} response tokens, "
            f"but the engine holds {limits.max_model_length} in all"
        )
    lowest, highest = int(request.prompt_ids.min()), int(request.prompt_ids.max())
    if lowest < 0 or highest >= limits.vocab_size:
        raise ValueError(
            f"{name} has token ids from {lowest} to {highest}; the model knows 0 to {limits.vocab_size - 1}"
        )
    # vLLM takes no temperature above 2, and what is refused must not depend on the engine.
    if (
        not 0 <= sampling.temperature <= 2
        or not 0 < sampling.top_p <= 1
        or (sampling.top_k < 1 and sampling.top_k != -1)
    ):
        raise ValueError(
            f"{name} asks for temperature={sampling.temperature}, top_p={sampling.top_p}, "
            f"top_k={sampling.top_k}; they must be in [0, 2], in (0, 1], and -1 or >= 1"
        )
