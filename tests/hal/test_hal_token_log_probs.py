"""Token log-probs: exact gradients, the same over two vocabulary shards, and no [tokens, vocabulary] anywhere."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hal.kernels import token_log_probs
from hal.kernels.providers import torch_chunked
from hal.kernels.sample import normal
from hal.kernels.tolerances import allowed
from hal.testing.kernel_checks import errors
from hal.testing.ranks import run_on_ranks

TOKENS, HIDDEN, ROWS = 13, 8, 24


def problem(vocab_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, weight with padding rows, targets, and a direction for each of the two results."""
    targets = torch.arange(TOKENS) * 7 % vocab_size
    return (
        normal(TOKENS, HIDDEN, seed=0),
        normal(ROWS, HIDDEN, seed=1),
        targets,
        normal(TOKENS, seed=2),
        normal(TOKENS, seed=3),
    )


def test_gradients_of_log_prob_and_entropy_are_exact() -> None:
    hidden, weight, targets, *_ = problem(vocab_size=21)
    assert torch.autograd.gradcheck(
        lambda h, w: torch_chunked.token_log_probs(
            h, w, targets, temperature=0.7, vocab_size=21, chunk_size=5
        ),
        (hidden.requires_grad_(), weight.requires_grad_()),
    )


def test_each_result_may_be_used_alone() -> None:
    hidden, weight, targets, *_ = problem(vocab_size=ROWS)
    for index in (0, 1):
        gradients = []
        for function in (torch_chunked.token_log_probs, token_log_probs.reference):
            h = hidden.clone().requires_grad_()
            function(h, weight, targets, temperature=1.0, vocab_size=ROWS)[index].sum().backward()
            gradients.append(h.grad)
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-12)


def test_one_hot_logits_have_log_prob_and_entropy_zero() -> None:
    log_probs, entropy = torch_chunked.token_log_probs(
        torch.eye(4), 1000 * torch.eye(4), torch.arange(4), temperature=1.0, vocab_size=4
    )
    assert log_probs.tolist() == [0, 0, 0, 0]
    assert entropy.tolist() == [0, 0, 0, 0]


def test_equal_logits_give_the_uniform_distribution_over_real_ids() -> None:
    log_probs, entropy = torch_chunked.token_log_probs(
        torch.zeros(2, 4), torch.ones(16, 4), torch.tensor([0, 9]), temperature=0.5, vocab_size=10
    )
    uniform = torch.full((2,), 10.0).log()
    torch.testing.assert_close(entropy, uniform)
    torch.testing.assert_close(log_probs, -uniform)


def test_temperature_zero_point_five_doubles_the_logits() -> None:
    hidden, weight, targets, *_ = problem(vocab_size=ROWS)
    options: dict[str, Any] = {"vocab_size": ROWS}
    cold = torch_chunked.token_log_probs(hidden, weight, targets, temperature=0.5, **options)
    doubled = torch_chunked.token_log_probs(2 * hidden, weight, targets, temperature=1.0, **options)
    torch.testing.assert_close(cold, doubled)


@pytest.mark.parametrize("target", [-1, 21, 1000])
def test_a_target_outside_the_vocabulary_has_probability_zero_instead_of_anothers(target: int) -> None:
    hidden, weight, *_ = problem(vocab_size=21)
    log_probs, _ = torch_chunked.token_log_probs(
        hidden[:1], weight, torch.tensor([target]), temperature=1.0, vocab_size=21
    )
    assert log_probs.item() == -torch.inf


def test_no_tokens_give_no_results() -> None:
    hidden, weight, targets, *_ = problem(vocab_size=ROWS)
    h = hidden[:0].requires_grad_()
    log_probs, entropy = torch_chunked.token_log_probs(
        h, weight, targets[:0], temperature=1.0, vocab_size=ROWS
    )
    assert log_probs.shape == entropy.shape == (0,)
    log_probs.sum().backward()


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)], ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_results_and_gradients_are_those_of_float64_as_far_as_the_type_reaches(
    dtype: torch.dtype, limit: float, temperature: float
) -> None:
    # Logits of deviation 2. Greater ones cost bfloat16 more, whoever multiplies: it has 8 bits for each of them.
    tokens, hidden_size, vocab_size = 48, 256, 20_000
    inputs = (
        normal(tokens, hidden_size, seed=0).to(dtype),
        (2 * temperature * hidden_size**-0.5 * normal(vocab_size, hidden_size, seed=1)).to(dtype),
    )
    targets = torch.arange(tokens) * 401
    directions = [1 + normal(tokens, seed=2).abs(), -1e-3 * torch.ones(tokens, dtype=torch.float64)]
    outcomes = []
    for function, wide in (
        (torch_chunked.token_log_probs, dtype),
        (token_log_probs.reference, torch.float64),
    ):
        leaves = [tensor.to(wide, copy=True).requires_grad_() for tensor in inputs]
        results = function(*leaves, targets, temperature=temperature, vocab_size=vocab_size, chunk_size=8)
        gradients = torch.autograd.grad(results, leaves, [d.to(results[0].dtype) for d in directions])
        outcomes.append([result.detach() for result in results] + list(gradients))
    found = errors(*outcomes)
    assert max(found) < limit, found


def test_gradients_in_bfloat16_are_right_for_tokens_that_are_almost_certain() -> None:
    # 1 - p of the target is 5e-4, which bfloat16 can't tell from 0 where it is taken after rounding p.
    hidden, weight = 3 * torch.eye(4, dtype=torch.bfloat16), 3 * torch.eye(4, dtype=torch.bfloat16)
    outcomes = []
    for function, dtype in (
        (torch_chunked.token_log_probs, torch.bfloat16),
        (token_log_probs.reference, torch.float64),
    ):
        h = hidden.to(dtype, copy=True).requires_grad_()
        log_probs, _ = function(h, weight.to(dtype), torch.arange(4), temperature=1.0, vocab_size=4)
        log_probs.sum().backward()
        outcomes.append([h.grad])
    assert max(errors(*outcomes)) < 1e-2


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that an operator returned."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, torch.Tensor):
                self.numel = max(self.numel, result.numel())
        return results


def test_the_logits_of_all_tokens_never_exist_at_once() -> None:
    tokens, vocab_size, chunk_size = 512, 4096, 32
    hidden = torch.randn(tokens, 16, requires_grad=True)
    weight = torch.randn(vocab_size, 16, requires_grad=True)
    targets = torch.randint(vocab_size, (tokens,))
    with LargestTensor() as seen:
        log_probs, entropy = torch_chunked.token_log_probs(
            hidden, weight, targets, temperature=1.0, vocab_size=vocab_size, chunk_size=chunk_size
        )
        (log_probs.sum() + entropy.sum()).backward()
    assert seen.numel <= chunk_size * vocab_size


def shards_equal_the_whole(rank: int, world_size: int) -> None:
    for vocab_size in (21, 11):  # the second leaves rank 1 with nothing but padding
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            for function in (torch_chunked.token_log_probs, token_log_probs.reference):
                compare_with_the_whole(rank, world_size, function, vocab_size, dtype)


def compare_with_the_whole(
    rank: int, world_size: int, function: Any, vocab_size: int, dtype: torch.dtype
) -> None:
    hidden, weight, targets, *directions = problem(vocab_size)
    hidden, weight = hidden.to(dtype), weight.to(dtype)
    rows = slice(rank * ROWS // world_size, (rank + 1) * ROWS // world_size)
    h, w = hidden.clone().requires_grad_(), weight[rows].clone().requires_grad_()
    options: dict[str, Any] = {"temperature": 0.7, "vocab_size": vocab_size}
    results = function(h, w, targets, group=dist.group.WORLD, chunk_size=5, **options)
    of_h, of_w = torch.autograd.grad(results, (h, w), [d.to(results[0].dtype) for d in directions])

    whole_h, whole_w = hidden.double().requires_grad_(), weight.double().requires_grad_()
    exact = token_log_probs.reference(whole_h, whole_w, targets, **options)
    of_whole_h, of_whole_w = torch.autograd.grad(exact, (whole_h, whole_w), directions)

    of_results, of_gradients = allowed("token_log_probs", dtype)
    label = f"{function.__module__}, {dtype}, vocabulary of {vocab_size}"
    assert max(errors(results, exact)) <= of_results, (label, errors(results, exact))
    # The rows of one rank may all have tiny gradients: measure against those of all.
    of_all = of_whole_w.clone()
    of_all[rows] = of_w.double()
    found = errors([of_h, of_all], [of_whole_h, of_whole_w])
    assert max(found) <= of_gradients, (label, found)


def test_two_vocabulary_shards_equal_one_even_if_one_is_nothing_but_padding(tmp_path: Path) -> None:
    run_on_ranks(shards_equal_the_whole, 2, tmp_path)
