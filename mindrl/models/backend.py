"""What a training backend is: log-probs, gradients of a policy loss, an optimizer step, weights by name.

Every rank of the backend makes the same calls in the same order. Ranks of one data-parallel group get different
samples; ranks that share a model copy (tensor and pipeline parallel) get the same ones.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from mindrl.data.records import FloatArray, Sample

Part = Literal["model", "optimizer", "random"]
"""Of a policy's state: weights; what the optimizer keeps between steps; all random generators of the process."""


@dataclass(frozen=True, slots=True)
class MiniBatch:
    """This data-parallel rank's share of one optimizer step."""

    samples: Sequence[Sample]
    advantages: FloatArray
    """[num_samples] one advantage a response."""
    token_weights: FloatArray
    """[num_samples] weight of each of a response's token losses, such that the sum over all ranks' tokens is the
    configured reduction over the global mini-batch. Independent of micro-batching and layout by construction."""
    old_log_probs: Sequence[FloatArray] | None = None
    """Per sample [response_length], or None to use the current ones (ratio 1, exact for the first optimizer step
    after a rollout)."""
    ref_log_probs: Sequence[FloatArray] | None = None
    """Per sample [response_length], or None without a reference policy."""


@dataclass(frozen=True, slots=True)
class GradientStats:
    """What one forward and backward pass over a mini-batch showed."""

    sums: Mapping[str, float]
    """Sums over all ranks' response tokens, by metric name; see `mindrl.algorithms.objective`."""
    log_probs: Sequence[FloatArray]
    """Per sample of this rank [response_length]: log-probs under the weights before the step."""


class TrainBackend(Protocol):
    """A model shard with its optimizer."""

    def log_probs(self, samples: Sequence[Sample]) -> list[FloatArray]:
        """Per sample [response_length]: log-probs of its response tokens at the rollout temperature. No gradient."""
        ...

    def accumulate_gradients(self, mini_batch: MiniBatch) -> GradientStats:
        """Zero the gradients, then run forward and backward over the mini-batch in micro-batches."""
        ...

    def apply_gradients(self, lr: float) -> float:
        """One optimizer step with the accumulated gradients; returns their global norm before clipping.

        FloatingPointError, and unchanged weights, if that norm is not finite."""
        ...

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Full tensors under their Hugging Face names, one at a time; collective, same order on every rank.

        A tensor is only valid until the next one is asked for. Tied weights come once; padding is cut off."""
        ...

    def offload(self) -> None:
        """Move weights, gradients and optimizer state to host memory where that frees device memory."""
        ...

    def onload(self) -> None:
        """Bring them back."""
        ...

    def state(self, parts: Collection[Part] = ("model",), *, for_loading: bool = False) -> dict[str, Any]:
        """The parts asked for, for `mindrl.checkpoint`; ranks hold their shards. Collective.

        With `for_loading` the values don't matter: the result says what `load_checkpoint` shall fill in."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take the parts that `state` has. Weights without optimizer state start the optimizer's weights anew."""
        ...
