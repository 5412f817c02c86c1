"""Micro-batches: samples as dense right-padded rows, and where in them the response tokens are predicted.

Three samples with `micro_batch_size = 2` (p: prompt, r: response, 0: padding)::

    tokens      p p p r r        target of r r is predicted at steps 2, 3 of row 0
                p r r r 0        ................................... 0, 1, 2 of row 1
    tokens      p p r 0 0        the third sample, alone in the second micro-batch

Attention is causal, so padding on the right changes no real position, and only the hidden states that predict a
response token go through the output layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mindrl.data.records import FloatArray, Sample
from mindrl.models.backend import MiniBatch


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one forward pass takes."""

    tokens: torch.Tensor
    """[num_rows, length] int64"""
    rows: torch.Tensor
    """[num_tokens] int64, row of each response token"""
    steps: torch.Tensor
    """[num_tokens] int64, step whose hidden state predicts it: its own position minus one"""
    targets: torch.Tensor
    """[num_tokens] int64, the response tokens"""
    indices: tuple[int, ...]
    """Which samples of the caller's these are; num_rows may be larger by rows of padding."""
    response_lengths: tuple[int, ...]
    """Tokens of each sample's response, adding up to num_tokens."""


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """What the objective needs beside log-probs and entropy; every tensor is [num_tokens]."""

    advantages: torch.Tensor
    token_weights: torch.Tensor
    mask: torch.Tensor
    old_log_probs: torch.Tensor | None
    ref_log_probs: torch.Tensor | None

    def part(self, tokens: slice) -> "TokenTerms":
        """Of some of the tokens."""
        return TokenTerms(
            advantages=self.advantages[tokens],
            token_weights=self.token_weights[tokens],
            mask=self.mask[tokens],
            old_log_probs=None if self.old_log_probs is None else self.old_log_probs[tokens],
            ref_log_probs=None if self.ref_log_probs is None else self.ref_log_probs[tokens],
        )


def micro_batches(
    samples: Sequence[Sample],
    micro_batch_size: int,
    *,
    device: torch.device,
    chosen: Sequence[int] | None = None,
    length_multiple: int = 1,
    same_shape: bool = False,
) -> list[MicroBatch]:
    """Cut samples into micro-batches, longest first so that neighbours are of similar length.

    `chosen` are the samples to take, by position; all when None. Lengths are padded to a multiple of
    `length_multiple`; `same_shape` pads all micro-batches to one shape, as pipeline stages need it, which then differ
    from the last one by nothing but their content."""
    lengths = np.array([len(sample.prompt_ids) + len(sample.response_ids) for sample in samples])
    taken = np.arange(len(samples)) if chosen is None else np.asarray(chosen, dtype=np.int64)
    order = taken[np.argsort(-lengths[taken], kind="stable")]
    chunks = [order[start : start + micro_batch_size] for start in range(0, len(order), micro_batch_size)]
    result: list[MicroBatch] = []
    for chunk in chunks:
        longest = int(lengths.max() if same_shape else lengths[chunk].max())
        num_rows = micro_batch_size if same_shape else len(chunk)
        padded = -(-longest // length_multiple) * length_multiple
        result.append(_micro_batch(samples, chunk.tolist(), num_rows, padded, device))
    return result


def _micro_batch(
    samples: Sequence[Sample], indices: list[int], num_rows: int, length: int, device: torch.device
) -> MicroBatch:
    tokens = np.zeros((num_rows, length), dtype=np.int64)
    rows: list[np.ndarray] = []
    steps: list[np.ndarray] = []
    for row, index in enumerate(indices):
        prompt, response = samples[index].prompt_ids, samples[index].response_ids
        end = len(prompt) + len(response)
        tokens[row, : len(prompt)] = prompt
        tokens[row, len(prompt) : end] = response
        rows.append(np.full(len(response), row))
        steps.append(np.arange(len(prompt) - 1, end - 1))
    targets = np.concatenate([samples[index].response_ids for index in indices])
    return MicroBatch(
        tokens=torch.from_numpy(tokens).to(device),
        rows=torch.from_numpy(np.concatenate(rows)).to(device),
        steps=torch.from_numpy(np.concatenate(steps)).to(device),
        targets=torch.from_numpy(targets.astype(np.int64)).to(device),
        indices=tuple(indices),
        response_lengths=tuple(len(samples[index].response_ids) for index in indices),
    )


def token_terms(mini_batch: MiniBatch, batch: MicroBatch) -> TokenTerms:
    """The mini-batch's numbers for this micro-batch's response tokens."""
    device = batch.tokens.device

    def per_token(values: Sequence[np.ndarray] | None) -> torch.Tensor | None:
        if values is None:
            return None
        flat = np.concatenate([np.asarray(values[index]) for index in batch.indices])
        return torch.from_numpy(flat).to(device)

    def per_sample(values: np.ndarray) -> torch.Tensor:
        picked = np.asarray(values, dtype=np.float32)[list(batch.indices)]
        return torch.from_numpy(np.repeat(picked, batch.response_lengths)).to(device)

    mask = per_token([sample.response_mask for sample in mini_batch.samples])
    assert mask is not None
    return TokenTerms(
        advantages=per_sample(mini_batch.advantages),
        token_weights=per_sample(mini_batch.token_weights),
        mask=mask,
        old_log_probs=per_token(mini_batch.old_log_probs),
        ref_log_probs=per_token(mini_batch.ref_log_probs),
    )


def per_sample_arrays(
    batches: Sequence[MicroBatch], flat: Sequence[torch.Tensor], num_samples: int
) -> list[FloatArray]:
    """Flat per-token values [num_tokens] of each micro-batch, back in the order of the samples."""
    result: list[FloatArray] = [np.zeros(0, dtype=np.float32)] * num_samples
    for batch, values in zip(batches, flat, strict=True):
        parts = values.detach().float().cpu().split(list(batch.response_lengths))
        for index, part in zip(batch.indices, parts, strict=True):
            result[index] = part.numpy().copy()
    return result
