import pytest
import torch

from mindrl.algorithms.kl import kl_estimate


def exact_kl_and_gradient() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A policy over five tokens with a reference, its exact KL divergence and the gradient of that."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, dtype=torch.float64, generator=generator, requires_grad=True)
    ref = torch.randn(5, dtype=torch.float64, generator=generator).log_softmax(-1)
    log_probs = logits.log_softmax(-1)
    divergence = (log_probs.exp() * (log_probs - ref)).sum()
    (gradient,) = torch.autograd.grad(divergence, logits)
    return logits, ref, divergence.detach(), gradient


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_unbiased_estimators_have_the_divergence_as_expectation(estimator):
    logits, ref, divergence, _ = exact_kl_and_gradient()
    log_probs = logits.detach().log_softmax(-1)
    expectation = (log_probs.exp() * kl_estimate(log_probs, ref, estimator)).sum()
    torch.testing.assert_close(expectation, divergence)


def test_k2_as_a_loss_has_the_gradient_of_the_divergence():
    logits, ref, _, gradient = exact_kl_and_gradient()
    log_probs = logits.log_softmax(-1)
    weights = log_probs.detach().exp()  # tokens are sampled: no gradient through how often each occurs
    (found,) = torch.autograd.grad((weights * kl_estimate(log_probs, ref, "k2")).sum(), logits)
    torch.testing.assert_close(found, gradient)


def test_k1_as_a_loss_has_no_gradient_in_expectation():
    logits, ref, _, _ = exact_kl_and_gradient()
    log_probs = logits.log_softmax(-1)
    weights = log_probs.detach().exp()
    (found,) = torch.autograd.grad((weights * kl_estimate(log_probs, ref, "k1")).sum(), logits)
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-12, rtol=0)


def test_k3_is_never_negative_and_keeps_tiny_differences():
    difference = torch.tensor([-1e-6, 0.0, 1e-6, 3.0, -3.0], dtype=torch.float32)
    estimate = kl_estimate(torch.zeros(5), difference, "k3")
    assert (estimate >= 0).all()
    assert estimate[:3].max() < 1e-11  # exp(d) - 1 - d in float32 would give 6e-8
