"""The token loss: the gradients of log-probs followed by a loss, formed along with it, piece by piece."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import hal
from hal.kernels import token_log_probs, token_loss
from hal.kernels.providers import torch_chunked_loss
from hal.kernels.sample import SMALL, normal
from hal.kernels.tolerances import allowed
from hal.testing.kernel_checks import errors
from hal.testing.ranks import run_on_ranks

TOKENS, HIDDEN, ROWS = 13, 8, 24
TARGETS = torch.arange(TOKENS) * 7 % 21
OPTIONS: dict[str, Any] = {"temperature": 0.7, "vocab_size": 21}
LOSSES = (token_loss.clipped_loss, token_loss.loss_with_entropy)


def leaves(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states and weight, with three rows of padding."""
    hidden, weight = normal(TOKENS, HIDDEN, seed=0).to(dtype), normal(ROWS, HIDDEN, seed=1).to(dtype)
    return hidden.requires_grad_(), weight.requires_grad_()


@pytest.mark.parametrize("loss_of", LOSSES)
@pytest.mark.parametrize("chunk_size", [1, 5, 13, 256])
def test_pieces_of_any_length_give_the_gradients_of_the_whole(loss_of: Any, chunk_size: int) -> None:
    outcomes = []
    for function in (torch_chunked_loss.token_loss, token_loss.reference):
        hidden, weight = leaves()
        loss, log_probs, entropy = function(
            hidden, weight, TARGETS, loss_of, chunk_size=chunk_size, **OPTIONS
        )
        (-3 * loss).backward()
        outcomes.append([loss.detach(), log_probs, entropy, hidden.grad, weight.grad])
    for found, exact in zip(*outcomes, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)


def test_a_loss_is_asked_for_each_token_once_with_its_own_numbers() -> None:
    seen: list[tuple[int, int]] = []
    hidden, weight = leaves()
    whole, of_whole = token_log_probs.reference(hidden, weight, TARGETS, **OPTIONS)

    def loss_of(log_probs: torch.Tensor, entropy: torch.Tensor, rows: slice) -> torch.Tensor:
        seen.append((rows.start, rows.stop))
        torch.testing.assert_close(log_probs, whole[rows])
        torch.testing.assert_close(entropy, of_whole[rows])
        return log_probs

    torch_chunked_loss.token_loss(hidden, weight, TARGETS, loss_of, chunk_size=5, **OPTIONS)
    assert seen == [(0, 5), (5, 10), (10, 13)]


def test_without_gradient_it_is_the_loss_of_the_log_probs() -> None:
    hidden, weight = leaves()
    with torch.no_grad():
        found = torch_chunked_loss.token_loss(
            hidden, weight, TARGETS, token_loss.loss_with_entropy, **OPTIONS
        )
    exact = token_loss.reference(hidden, weight, TARGETS, token_loss.loss_with_entropy, **OPTIONS)
    torch.testing.assert_close(found, tuple(result.detach() for result in exact))
    assert not found[0].requires_grad


def test_a_loss_without_gradient_and_no_tokens_at_all_give_zero_gradients() -> None:
    for targets in (TARGETS, TARGETS[:0]):
        hidden, weight = leaves()
        loss, *_ = torch_chunked_loss.token_loss(
            hidden[: len(targets)], weight, targets, lambda p, *_: torch.zeros_like(p), **OPTIONS
        )
        loss.backward()
        assert weight.grad.count_nonzero() == 0
        assert hidden.grad.count_nonzero() == 0


def test_a_weight_that_is_not_trained_costs_no_gradient() -> None:
    hidden, weight = leaves()
    weight.requires_grad_(False)
    loss, *_ = torch_chunked_loss.token_loss(hidden, weight, TARGETS, token_loss.clipped_loss, **OPTIONS)
    loss.backward()
    assert weight.grad is None
    assert hidden.grad.count_nonzero() > 0


def test_a_second_backward_pass_is_refused_because_the_gradients_are_handed_out() -> None:
    hidden, weight = leaves()
    loss, *_ = torch_chunked_loss.token_loss(hidden, weight, TARGETS, token_loss.clipped_loss, **OPTIONS)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="hands its gradients out once"):
        loss.backward()


def test_its_log_probs_are_those_of_the_token_log_probs_that_are_chosen_with_it() -> None:
    kernels = hal.select(hal.choose("cpu"), SMALL)
    assert kernels.providers["token_loss"] == kernels.providers["token_log_probs"]
    hidden, weight = leaves(torch.float32)
    _, *found = kernels.token_loss(hidden, weight, TARGETS, token_loss.clipped_loss, chunk_size=5, **OPTIONS)
    expected = kernels.token_log_probs(hidden, weight, TARGETS, **OPTIONS)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=0, atol=2e-6)


def shards_equal_the_whole(rank: int, world_size: int) -> None:
    rows = slice(rank * ROWS // world_size, (rank + 1) * ROWS // world_size)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        for function in (torch_chunked_loss.token_loss, token_loss.reference):
            for loss_of in LOSSES:
                hidden, weight = (leaf.detach() for leaf in leaves(dtype))
                h, w = hidden.clone().requires_grad_(), weight[rows].clone().requires_grad_()
                loss, *found = function(
                    h, w, TARGETS, loss_of, group=dist.group.WORLD, chunk_size=5, **OPTIONS
                )
                loss.backward()

                exact_h, exact_w = hidden.double().requires_grad_(), weight.double().requires_grad_()
                exact, *exact_found = token_loss.reference(exact_h, exact_w, TARGETS, loss_of, **OPTIONS)
                exact.backward()
                of_all = exact_w.grad.clone()
                of_all[rows] = w.grad.double()
                of_results, of_gradients = allowed("token_loss", dtype)
                results = errors([loss.detach(), *found], [exact.detach(), *exact_found])
                gradients = errors([h.grad, of_all], [exact_h.grad, exact_w.grad])
                label = f"{function.__module__}, {dtype}, {loss_of.__name__}: {results}, {gradients}"
                assert max(results) <= of_results, label
                assert max(gradients) <= of_gradients, label


def test_two_vocabulary_shards_equal_one(tmp_path: Path) -> None:
    run_on_ranks(shards_equal_the_whole, 2, tmp_path)
