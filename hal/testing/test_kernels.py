"""Every kernel that serves computes what its op's reference says, on every sample, in every type, in every layout."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

import hal
from hal.kernels.registry import providers, why_not
from hal.kernels.sample import SMALL
from hal.testing.cases import Case
from hal.testing.kernel_checks import Outcome, check_kernel, run
from hal.testing.layouts import LAYOUTS, Layout, arranged, followed_by_padding


@contextmanager
def deterministic(accelerator: hal.Accelerator) -> Generator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    accelerator.set_deterministic(True)
    try:
        yield
    finally:
        accelerator.set_deterministic(before)


def assert_same_bits(first: Outcome, second: Outcome) -> None:
    for kind, one, other in (
        ("result", first.results, second.results),
        ("gradient", first.gradients, second.gradients),
    ):
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert torch.equal(a, b), f"{kind} {index} differs between two equal calls"


def test_results_and_gradients_equal_the_reference(case: Case) -> None:
    check_kernel(case.provider, case.accelerator, case.rounded())


def test_two_equal_calls_give_the_same_bits(case: Case) -> None:
    sample = case.rounded()
    with deterministic(case.accelerator):
        assert_same_bits(*(run(case.op, case.provider.function, sample) for _ in range(2)))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_place_of_numbers_in_memory_does_not_matter(case: Case, layout: Layout) -> None:
    check_kernel(case.provider, case.accelerator, arranged(case.rounded(), layout))


def test_padding_that_follows_does_not_matter(padded_case: Case) -> None:
    sample, provider = padded_case.rounded(), padded_case.provider
    padded = followed_by_padding(provider.op, provider.function)
    check_kernel(provider, padded_case.accelerator, sample, function=padded)


def test_arguments_are_left_as_they_are(case: Case) -> None:
    sample = case.rounded()
    tensors = [*sample.tensors, *(v for v in sample.options.values() if isinstance(v, torch.Tensor))]
    before = [tensor.clone() for tensor in tensors]
    run(case.op, case.provider.function, sample)
    assert all(map(torch.equal, tensors, before))


def test_the_same_random_state_drops_the_same_probabilities(dropout_case: Case) -> None:
    sample, accelerator = dropout_case.rounded(), dropout_case.accelerator
    with deterministic(accelerator):
        state = accelerator.get_rng_state()
        first = run(dropout_case.op, dropout_case.provider.function, sample)
        second = run(dropout_case.op, dropout_case.provider.function, sample)
        accelerator.set_rng_state(state)
        assert_same_bits(first, run(dropout_case.op, dropout_case.provider.function, sample))
    if sample.tensors[0].shape[-3] > 1:
        assert not torch.equal(first.results[0], second.results[0]), "nothing was dropped, or always the same"


def test_dropped_probabilities_are_made_up_for(accelerator: hal.Accelerator) -> None:
    facts = replace(SMALL, dtype=torch.float32, dropout=0.5)
    serving = [p for p in providers("attention") if why_not(p, accelerator, facts) is None]
    assert serving
    for provider in serving:
        query = key = torch.zeros(1, 64, 4, 8, device=accelerator.device())
        value = torch.ones_like(query)
        accelerator.manual_seed(0)
        output = provider.function(query, key, value, softmax_scale=1.0, causal=False, dropout_p=0.5)
        assert output.std().item() > 0, f"{provider.name} drops nothing"
        assert abs(output.mean().item() - 1) < 0.05, provider.name
