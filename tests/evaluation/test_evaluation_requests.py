"""What an evaluation asks an engine for."""

import numpy as np
import pytest

from mindrl.data.records import Prompt
from mindrl.evaluation.requests import EvaluationSettings, evaluation_requests


def prompts(count: int) -> list[Prompt]:
    return [Prompt(f"u-{i}", "p", np.array([1, i], dtype=np.int32), "t", "set") for i in range(count)]


def test_each_prompt_gets_n_neighbouring_requests() -> None:
    settings = EvaluationSettings(5, stop_token_ids=(2,), temperature=1.0, n_samples=3)
    requests = evaluation_requests(prompts(2), settings)
    assert [r.sample_id for r in requests] == [0, 1, 2, 3, 4, 5]
    assert [r.group_id for r in requests] == [0, 0, 0, 1, 1, 1]
    assert {(r.sampling.temperature, r.sampling.max_tokens, r.sampling.stop_token_ids) for r in requests} == {
        (1.0, 5, (2,))
    }
    assert len({r.seed for r in requests}) == 6
    assert all(0 <= r.seed < 2**31 for r in requests)


def test_splitting_prompts_over_engines_changes_no_request() -> None:
    settings = EvaluationSettings(5, (2,), temperature=0.7, n_samples=2, seed=3)
    whole = prompts(5)
    together = evaluation_requests(whole, settings)
    apart = evaluation_requests(whole[:2], settings) + evaluation_requests(
        whole[2:], settings, first_group_id=2
    )
    assert [(r.sample_id, r.group_id, r.seed) for r in together] == [
        (r.sample_id, r.group_id, r.seed) for r in apart
    ]


def test_another_seed_draws_other_responses() -> None:
    first, second = (
        evaluation_requests(prompts(1), EvaluationSettings(5, (), temperature=1.0, seed=seed))
        for seed in (0, 1)
    )
    assert first[0].seed != second[0].seed


def test_several_greedy_responses_are_refused() -> None:
    with pytest.raises(ValueError, match="4 equal responses"):
        EvaluationSettings(5, (), n_samples=4)
