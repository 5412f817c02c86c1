"""pass@k, avg@k and the rest, from scored responses."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindrl.evaluation.result import ScoredResponse, pass_at_k, summarize
from mindrl.trainer.metric_names import check_name


def response(group: int, score: float, source: str = "set", length: int = 4, truncated: bool = False):
    return ScoredResponse(group, source, score, length, truncated)


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_response(case: tuple[int, int, int]) -> None:
    n, correct, k = case
    draws = list(itertools.combinations([i < correct for i in range(n)], k))
    assert pass_at_k(n, correct, k) == pytest.approx(sum(any(draw) for draw in draws) / len(draws))


def test_pass_at_k_stays_exact_for_many_responses() -> None:
    assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01, rel=1e-9)


def test_pass_at_more_than_was_sampled_is_not_defined() -> None:
    with pytest.raises(ValueError, match="pass@3 of 2"):
        pass_at_k(2, 1, 3)


def test_one_greedy_response_a_prompt_gives_the_share_of_right_ones() -> None:
    result = summarize([response(0, 1.0, length=2), response(1, 0.0, length=4, truncated=True)]).overall
    assert (result.num_prompts, result.n_samples) == (2, 1)
    assert result.pass_at == {1: 0.5}
    assert (result.avg, result.response_length, result.truncated_fraction) == (0.5, 3.0, 0.5)


def test_a_score_below_the_mark_counts_for_the_mean_and_not_as_right() -> None:
    responses = [response(0, 0.9), response(0, 0.3), response(0, 0.0)]
    assert summarize(responses).overall.pass_at == {1: 0.0, 2: 0.0, 3: 0.0}
    assert summarize(responses).overall.avg == pytest.approx(0.4)
    assert summarize(responses, correct_at=0.5).overall.pass_at == pytest.approx({1: 1 / 3, 2: 2 / 3, 3: 1.0})


def test_sources_are_kept_apart_and_together() -> None:
    result = summarize([response(0, 1.0, "a"), response(1, 0.0, "a"), response(2, 1.0, "b/c")])
    metrics = result.metrics()
    assert metrics["eval/a/pass_at_1"] == 0.5
    assert metrics["eval/b/c/avg_at_1"] == 1.0
    assert metrics["eval/all/pass_at_1"] == pytest.approx(2 / 3)
    for name in metrics:
        check_name(name)


def test_a_single_source_is_not_reported_twice() -> None:
    assert not any("/all/" in name for name in summarize([response(0, 1.0, "a")]).metrics())


@given(st.lists(st.floats(-1, 2), min_size=1, max_size=12), st.randoms())
def test_the_order_of_responses_does_not_matter(scores: list[float], random: object) -> None:
    responses = [response(i, score) for i, score in enumerate(scores)]
    shuffled = list(responses)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert summarize(responses) == summarize(shuffled)


def test_prompts_with_unequal_numbers_of_responses_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prompts with \[1, 2\]"):
        summarize([response(0, 1.0), response(0, 1.0), response(1, 1.0)])


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(ValueError, match="no responses"):
        summarize([])


def test_weights_that_add_up_to_one_only_almost_still_make_a_right_answer():
    full = sum([0.7, 0.2, 0.1])
    assert full < 1
    response = ScoredResponse(group_id=0, data_source="a", score=full, response_length=1, truncated=False)
    assert summarize([response]).overall.pass_at == {1: 1.0}
