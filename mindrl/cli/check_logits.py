"""`mindrl convert --check-logits`: both models predict the same from the same tokens."""

import gc
from collections import Counter
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from mindrl.checkpoint.byte_plan import FP8
from mindrl.checkpoint.comparison.sides import HuggingFaceSide, Side
from mindrl.checkpoint.formats.torch_dist import METADATA_NAME
from mindrl.checkpoint.training import load_checkpoint
from mindrl.errors import RequestError
from mindrl.models.logits import megatron_logits, random_tokens, transformers_logits

TOLERANCE = 1e-5
"""Largest difference of two logits, computed in float32 by two implementations from the same weights, as a share of the
largest logit, or of 1 where all are smaller. It is what sums of another order differ by; swapped rows, a missing bias or
another rotary base are thousands of times above."""
NUM_TOKENS = 48
BYTES_PER_PARAMETER = 8
"""float32, and once more while the weights are read."""
SHARE_OF_FREE_MEMORY = 0.9


@dataclass(frozen=True, slots=True)
class LogitsComparison:
    """What was found."""

    max_difference: float
    largest: float
    """Largest logit of the left side, by its absolute value."""
    top_1_agreement: float
    """Share of places in which both find the same token likeliest."""
    num_places: int

    @property
    def tolerance(self) -> float:
        return TOLERANCE * max(1.0, self.largest)

    @property
    def within(self) -> bool:
        """Not so where either has a logit that is no number."""
        return self.max_difference <= self.tolerance

    def as_json(self) -> dict[str, Any]:
        """For machines; what is no number is null."""
        is_number = self.max_difference == self.max_difference
        return {
            "max_difference": self.max_difference if is_number else None,
            "tolerance": self.tolerance if is_number else None,
            "top_1_agreement": self.top_1_agreement,
            "num_places": self.num_places,
            "within": self.within,
        }

    def text(self) -> str:
        """In words."""
        verdict = "logits agree" if self.within else "LOGITS DIFFER"
        return (
            f"{verdict}: by at most {self.max_difference:.2g} (allowed {self.tolerance:.2g}: float32, largest logit "
            f"{self.largest:.3g}) over {self.num_places} places; top-1 agreement {self.top_1_agreement:.1%}"
        )


def check_logits(left: Side, right: Side) -> LogitsComparison:
    """Run both models, one after the other, in float32; `RequestError` where that can't be done here."""
    arch = left.architecture or right.architecture
    if arch is None:
        raise RequestError(
            f"--check-logits has to know the model: neither {left.path} nor {right.path} has a config.json of a family "
            "that there is a weight map for."
        )
    if arch.unsupported:
        raise RequestError(
            f"--check-logits: what this model computes is not supported: {'; '.join(arch.unsupported)}."
        )
    for side in (left, right):
        _require_possible(side)
    tokens = random_tokens(arch.vocab_size, min(NUM_TOKENS, arch.max_position_embeddings))
    dtype: torch.dtype = getattr(torch, _main_dtype(right))  # a conversion to it has rounded, on purpose
    a = _logits(left, tokens, dtype)
    gc.collect()
    b = _logits(right, tokens, dtype)
    if a.shape != b.shape:
        raise RequestError(
            f"--check-logits: {left.path} and {right.path} are models of different vocabularies."
        )
    return LogitsComparison(
        max_difference=float((a - b).abs().max()),
        largest=float(a.abs().max()),
        top_1_agreement=float((a.argmax(-1) == b.argmax(-1)).float().mean()),
        num_places=tokens.numel(),
    )


def _require_possible(side: Side) -> None:
    num_parameters = sum(tensor.rows * tensor.columns for tensor in side.tensors.values())
    needed = num_parameters * BYTES_PER_PARAMETER
    free = psutil.virtual_memory().available
    if needed > SHARE_OF_FREE_MEMORY * free:
        raise RequestError(
            f"--check-logits: {side.path} has {num_parameters / 1e9:,.1f} billion parameters; to run it in float32 takes "
            f"{needed / 1e9:,.0f} GB of memory, and {free / 1e9:,.0f} GB are free. Leave --check-logits out (--check compares "
            "every bit of the weights), or try the conversion on a smaller model of the family."
        )
    if any(tensor.dtype == FP8 for tensor in side.tensors.values()):
        raise RequestError(
            f"--check-logits: {side.path} holds FP8 weights, which transformers does not run here: convert them with "
            "--from-fp8 and name the result."
        )
    if isinstance(side, HuggingFaceSide):
        if not (side.path / "config.json").exists():
            raise RequestError(
                f"--check-logits: {side.path} has no config.json, so it is not known how to run it."
            )
    elif not (side.path / METADATA_NAME).exists():
        raise RequestError(
            f"--check-logits: {side.path} is in the older mp_rank_XX layout, which Megatron-core does not load here: "
            "convert it to a Hugging Face directory and compare the logits of that."
        )


def _main_dtype(side: Side) -> str:
    """Type of most values."""
    values: Counter[str] = Counter()
    for tensor in side.tensors.values():
        values[tensor.dtype] += tensor.rows * tensor.columns
    return values.most_common(1)[0][0]


def _logits(side: Side, tokens: torch.Tensor, rounded_to: torch.dtype) -> torch.Tensor:
    if isinstance(side, HuggingFaceSide):
        return transformers_logits(side.path, tokens, rounded_to)
    assert side.architecture is not None  # a checkpoint is not opened without
    return megatron_logits(
        side.architecture, lambda state: load_checkpoint(side.path, state), tokens, rounded_to
    )
