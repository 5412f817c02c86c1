import torch

from mindrl.algorithms.kl import kl_estimate
from mindrl.algorithms.objective import PolicyObjective, metrics_from_sums
from mindrl.algorithms.policy_losses import clipped_policy_loss
from mindrl.config.algorithm import AlgorithmConfig, KlConfig


def tokens(num: int = 12) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def draw() -> torch.Tensor:
        return torch.randn(num, dtype=torch.float64, generator=generator)

    return {
        "log_probs": draw().requires_grad_(),
        "entropy": draw().abs().requires_grad_(),
        "old_log_probs": draw(),
        "ref_log_probs": draw(),
        "advantages": draw(),
        "token_weights": draw().abs(),
        "mask": torch.arange(num) % 4 != 0,
    }


def objective(**algorithm) -> PolicyObjective:
    return PolicyObjective.from_config(AlgorithmConfig(**algorithm))


def test_clip_takes_the_gradient_away_only_where_it_would_push_further():
    # ratios 1.5 and 0.5 with advantages of both signs
    log_probs = torch.tensor([1.5, 1.5, 0.5, 0.5], dtype=torch.float64).log().requires_grad_()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    losses, clipped = clipped_policy_loss(
        log_probs, torch.zeros(4), advantages, clip_ratio_low=0.2, clip_ratio_high=0.3
    )
    torch.testing.assert_close(losses, torch.tensor([-1.3, 1.5, -0.5, 0.8], dtype=torch.float64))
    assert clipped.tolist() == [True, False, False, True]
    (gradient,) = torch.autograd.grad(losses.sum(), log_probs)
    torch.testing.assert_close(gradient, torch.tensor([0.0, 1.5, -0.5, 0.0], dtype=torch.float64))


def test_kl_ppo_is_the_divergence_from_the_policy_that_sampled():
    # Over every token of two distributions, weighted by the one that sampled, k3 adds up to the exact divergence.
    old, new = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.4, 0.4, 0.2])
    total = 0.0
    for probability, before, after in zip(old, old.log(), new.log(), strict=True):
        batch = {name: value[1:2] for name, value in tokens().items()}
        _, sums = objective()(**(batch | {"log_probs": after[None], "old_log_probs": before[None]}))
        total += probability * sums["kl/ppo"]
    torch.testing.assert_close(total, (old * (old / new).log()).sum())


def test_loss_is_the_weighted_sum_of_its_terms():
    batch = tokens()
    loss, sums = objective(kl=KlConfig(coef=0.3), entropy_coef=0.1)(**batch)
    policy, _ = clipped_policy_loss(
        batch["log_probs"],
        batch["old_log_probs"],
        batch["advantages"],
        clip_ratio_low=0.2,
        clip_ratio_high=0.2,
    )
    kl = kl_estimate(batch["log_probs"], batch["ref_log_probs"], "k3")
    expected = ((policy + 0.3 * kl - 0.1 * batch["entropy"]) * batch["token_weights"])[batch["mask"]].sum()
    torch.testing.assert_close(loss, expected, check_dtype=False, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sums["loss/total"], loss.detach())


def test_micro_batches_add_up():
    batch = tokens()
    run = objective(kl=KlConfig(coef=0.3), entropy_coef=0.1)
    whole, whole_sums = run(**batch)
    parts = [
        run(**{name: value[cut] for name, value in batch.items()}) for cut in (slice(0, 5), slice(5, 12))
    ]
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole)
    for name, value in whole_sums.items():
        torch.testing.assert_close(sum(sums[name] for _, sums in parts), value, check_dtype=False)


def test_left_out_old_log_probs_give_the_gradient_of_the_current_ones():
    batch = tokens()
    run = objective()
    explicit, _ = run(**batch | {"old_log_probs": batch["log_probs"].detach(), "ref_log_probs": None})
    implicit, sums = run(**batch | {"old_log_probs": None, "ref_log_probs": None})
    for loss in (explicit, implicit):
        assert torch.autograd.grad(loss, batch["log_probs"], retain_graph=True)[0].abs().sum() > 0
    torch.testing.assert_close(
        torch.autograd.grad(explicit, batch["log_probs"]), torch.autograd.grad(implicit, batch["log_probs"])
    )
    assert sums["kl/ppo"] == 0
    assert sums["clip_fraction"] == 0


def test_kl_in_the_reward_stays_out_of_the_loss_and_is_still_measured():
    batch = tokens()
    run = objective(kl=KlConfig(coef=0.3, placement="reward"))
    loss, sums = run(**batch)
    assert loss.detach() == sums["loss/policy"]
    assert sums["kl/reference"] > 0


def test_masked_tokens_add_nothing_even_when_they_are_not_numbers():
    batch = tokens()
    spoiled = batch | {"old_log_probs": batch["old_log_probs"].masked_fill(~batch["mask"], float("nan"))}
    run = objective()
    torch.testing.assert_close(run(**spoiled)[0], run(**batch)[0])


def test_metrics_are_means_over_tokens_and_losses_are_left_alone():
    metrics = metrics_from_sums(
        {
            "num_tokens": 4.0,
            "loss/policy": 0.5,
            "loss/total": 0.6,
            "entropy": 2.0,
            "kl/ppo": 0.0,
            "clip_fraction": 1.0,
        }
    )
    assert metrics == {
        "loss/policy": 0.5, "loss/total": 0.6, "entropy": 0.5, "kl/ppo": 0.0, "clip_fraction": 0.25
    }  # fmt: skip
