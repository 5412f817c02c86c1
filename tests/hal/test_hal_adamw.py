"""The AdamW step: torch.optim.AdamW's numbers, in place, over lists of tensors."""

from collections.abc import Callable

import pytest
import torch

from hal.kernels import adamw
from hal.kernels.providers import torch_optimizer
from hal.kernels.sample import normal

KERNELS = [torch_optimizer.fused, torch_optimizer.foreach, adamw.reference]
SETTINGS = {"lr": 3e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
SHAPES = ((5, 7), (3,), (2, 3, 4))


@pytest.mark.parametrize("kernel", KERNELS)
def test_twenty_steps_are_those_of_torchs_own_optimizer(kernel: Callable[..., None]) -> None:
    params = [normal(*shape, seed=index) for index, shape in enumerate(SHAPES)]
    theirs = [torch.nn.Parameter(param.clone()) for param in params]
    averages, squares = [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params]
    betas = SETTINGS["beta1"], SETTINGS["beta2"]
    optimizer = torch.optim.AdamW(
        theirs, lr=SETTINGS["lr"], betas=betas, eps=SETTINGS["eps"], weight_decay=SETTINGS["weight_decay"]
    )
    for step in range(1, 21):
        grads = [normal(*shape, seed=100 * step + index) for index, shape in enumerate(SHAPES)]
        before = [grad.clone() for grad in grads]
        kernel(params, grads, averages, squares, step=step, **SETTINGS)
        assert all(map(torch.equal, grads, before)), "gradients stay as they were"
        for param, grad in zip(theirs, grads, strict=True):
            param.grad = grad
        optimizer.step()
    for index, their in enumerate(theirs):
        torch.testing.assert_close(params[index], their.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(averages[index], optimizer.state[their]["exp_avg"])
        torch.testing.assert_close(squares[index], optimizer.state[their]["exp_avg_sq"])


@pytest.mark.parametrize("kernel", KERNELS)
def test_parameters_that_require_gradients_are_stepped_without_a_graph(kernel: Callable[..., None]) -> None:
    param = torch.nn.Parameter(torch.ones(3))
    states = [torch.zeros(3)], [torch.zeros(3)]
    kernel([param], [torch.ones(3)], *states, step=1, **SETTINGS)
    assert param.grad_fn is None
    assert param.is_leaf
    # The first step is lr times the gradient's sign, after the decay.
    torch.testing.assert_close(param.detach(), torch.full((3,), 1 - 3e-2 * 0.1 - 3e-2))


@pytest.mark.parametrize("kernel", KERNELS)
def test_views_of_one_buffer_are_stepped_where_they_lie(kernel: Callable[..., None]) -> None:
    """As in an optimizer that is spread over ranks: parameters are slices of one flat buffer."""
    buffer = torch.ones(10)
    parts = [buffer[:4], buffer[6:]]
    states = [[torch.zeros(4), torch.zeros(4)] for _ in range(2)]
    kernel(parts, [torch.ones(4), torch.ones(4)], *states, step=1, **SETTINGS)
    assert (buffer != 1).tolist() == [True] * 4 + [False] * 2 + [True] * 4
