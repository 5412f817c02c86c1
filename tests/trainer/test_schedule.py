import pytest

from mindrl.config import load
from mindrl.trainer.schedule import learning_rate


def rates(*overrides: str) -> list[float]:
    config = load(
        "configs/grpo_quickstart.yaml", ["trainer.total_steps=10", "actor.optimizer.lr=1.0", *overrides]
    )
    return [learning_rate(step, config) for step in range(1, 11)]


def test_warm_up_rises_linearly_to_the_peak():
    assert rates("actor.lr_schedule={name: constant, warmup_steps: 4}") == [0.25, 0.5, 0.75] + [1.0] * 7


def test_linear_decay_ends_at_the_minimum_with_the_last_step():
    found = rates("actor.lr_schedule={name: linear, warmup_steps: 0, min_lr: 0.5}")
    assert found == pytest.approx([1 - 0.05 * step for step in range(1, 11)])


def test_cosine_decay_is_half_way_in_the_middle():
    found = rates("actor.lr_schedule={name: cosine, warmup_steps: 2}")
    assert found[5] == pytest.approx(0.5)
    assert found[-1] == pytest.approx(0.0)
