"""Samples become right-padded micro-batches, and numbers come back sample by sample."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_mini_batch, make_samples

from mindrl.models.batching import micro_batches, per_sample_arrays, token_terms

HOST = torch.device("cpu")


def test_each_response_token_is_predicted_one_step_before_its_own_position() -> None:
    sample = make_samples(1)[0]
    sample = replace(
        sample,
        prompt_ids=np.array([7, 8, 9], dtype=np.int32),
        response_ids=np.array([4, 5], dtype=np.int32),
    )
    [batch] = micro_batches([sample], 1, device=HOST, length_multiple=4)
    assert batch.tokens.tolist() == [[7, 8, 9, 4, 5, 0, 0, 0]]
    assert batch.steps.tolist() == [2, 3]
    assert batch.targets.tolist() == [4, 5]


@given(num_samples=st.integers(1, 9), size=st.integers(1, 4), multiple=st.sampled_from([1, 2, 4]))
def test_every_token_appears_once_and_returns_to_its_sample(
    num_samples: int, size: int, multiple: int
) -> None:
    samples = make_samples(num_samples)
    batches = micro_batches(samples, size, device=HOST, length_multiple=multiple)
    assert all(batch.tokens.shape[1] % multiple == 0 for batch in batches)
    read = [batch.tokens[batch.rows, batch.steps + 1] for batch in batches]
    for batch, tokens in zip(batches, read, strict=True):
        assert torch.equal(tokens, batch.targets)
    back = per_sample_arrays(batches, [tokens.float() for tokens in read], num_samples)
    for sample, values in zip(samples, back, strict=True):
        np.testing.assert_array_equal(values, sample.response_ids.astype(np.float32))


def test_pipeline_stages_see_one_shape() -> None:
    batches = micro_batches(make_samples(5), 2, device=HOST, same_shape=True)
    assert len({batch.tokens.shape for batch in batches}) == 1
    assert [len(batch.indices) for batch in batches] == [2, 2, 1]


def test_terms_of_the_objective_follow_the_tokens() -> None:
    samples = make_samples(4)
    mini_batch = make_mini_batch(samples)
    for batch in micro_batches(samples, 3, device=HOST):
        terms = token_terms(mini_batch, batch)
        expected = np.concatenate(
            [np.full(len(samples[i].response_ids), mini_batch.advantages[i]) for i in batch.indices]
        )
        np.testing.assert_array_equal(terms.advantages.numpy(), expected)
        masks = np.concatenate([samples[i].response_mask for i in batch.indices])
        np.testing.assert_array_equal(terms.mask.numpy(), masks)
        assert terms.old_log_probs is not None
        assert terms.old_log_probs.shape == batch.targets.shape
