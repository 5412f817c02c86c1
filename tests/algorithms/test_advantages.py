import torch
from hypothesis import given
from hypothesis import strategies as st

from mindrl.algorithms.advantages import group_advantages, zero_variance_groups

groups = st.lists(st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4), min_size=1, max_size=5).map(
    lambda rows: torch.tensor(rows, dtype=torch.float64)
)


def test_napkin_example():
    # rewards 1 0 0 1: mean 1/2, squared deviations add up to 1, unbiased std sqrt(1/3)
    advantages = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0]], dtype=torch.float64), epsilon=1e-12)
    expected = 0.5 / (1 / 3) ** 0.5
    torch.testing.assert_close(
        advantages, torch.tensor([[expected, -expected, -expected, expected]], dtype=torch.float64)
    )


def test_population_std_divides_by_the_group_size():
    rewards = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    advantages = group_advantages(rewards, std="population", epsilon=1e-12)
    torch.testing.assert_close(advantages, torch.tensor([[1.0, -1.0]], dtype=torch.float64))


def test_without_std_the_advantage_is_the_centered_reward():
    rewards = torch.tensor([[3.0, 1.0], [5.0, 5.0]])
    torch.testing.assert_close(
        group_advantages(rewards, normalize_std=False), torch.tensor([[1.0, -1.0], [0.0, 0.0]])
    )


@given(groups)
def test_every_group_adds_up_to_zero_and_is_finite(rewards: torch.Tensor):
    advantages = group_advantages(rewards)
    assert torch.isfinite(advantages).all()
    torch.testing.assert_close(
        advantages.sum(dim=1), torch.zeros(len(rewards), dtype=torch.float64), atol=1e-6, rtol=0
    )


@given(st.floats(-1e3, 1e3, width=32), st.integers(1, 9))
def test_equal_rewards_teach_exactly_nothing(reward: float, group_size: int):
    # 0.1 in float32 has a mean that differs from it by a rounding error, which must not be blown up
    rewards = torch.full((2, group_size), reward, dtype=torch.float32)
    assert group_advantages(rewards, epsilon=1e-12).eq(0).all()
    assert zero_variance_groups(rewards).all()


def test_one_sample_a_group_never_gives_nan():
    assert group_advantages(torch.tensor([[0.3], [0.9]])).eq(0).all()
