"""One AdamW step over many tensors (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from hal.kernels.sample import SMALL, Sample, normal


class Adamw(Protocol):
    """Signature of `reference`."""

    def __call__(
        self,
        params: Sequence[torch.Tensor],
        grads: Sequence[torch.Tensor],
        exp_avgs: Sequence[torch.Tensor],
        exp_avg_sqs: Sequence[torch.Tensor],
        *,
        step: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
    ) -> None: ...


@torch.no_grad()
def reference(
    params: Sequence[torch.Tensor],
    grads: Sequence[torch.Tensor],
    exp_avgs: Sequence[torch.Tensor],
    exp_avg_sqs: Sequence[torch.Tensor],
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """Decay, average and step, in place: `params`, `exp_avgs` and `exp_avg_sqs` change, `grads` do not.

    The four lists go together: tensors of equal shape, all of one floating type, each dense in memory. `step` counts
    from 1. With m and v the averages and lr the learning rate, `torch.optim.AdamW`'s arithmetic:
    m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
    p = p - lr weight_decay p - lr m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps).
    Averages and parameter are rounded once each, from float32 at least."""
    for param, grad, exp_avg, exp_avg_sq in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        wide = torch.promote_types(param.dtype, torch.float32)
        p, g = param.to(wide), grad.to(wide)
        m = exp_avg.to(wide).lerp(g, 1 - beta1)
        v = beta2 * exp_avg_sq.to(wide) + (1 - beta2) * g.square()
        denominator = (v / (1 - beta2**step)).sqrt() + eps
        param.copy_(p * (1 - lr * weight_decay) - lr / (1 - beta1**step) * m / denominator)
        exp_avg.copy_(m)
        exp_avg_sq.copy_(v)


def call(
    function: Callable[..., Any], tensors: Sequence[torch.Tensor], options: Mapping[str, Any]
) -> list[torch.Tensor]:
    """A sample's tensors are the four lists one after the other; results are what changed, and the gradients."""
    size = len(tensors) // 4
    copies = [tensor.detach().clone() for tensor in tensors]
    function(*(copies[index * size : (index + 1) * size] for index in range(4)), **options)
    return copies


def samples() -> list[Sample]:
    """First and later steps, with and without decay, from one tensor to several, a scalar and an empty one."""
    settings = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}

    def sample(name: str, shapes: list[tuple[int, ...]], **options: Any) -> Sample:
        params = [normal(*shape, seed=index) for index, shape in enumerate(shapes)]
        grads = [normal(*shape, seed=10 + index) for index, shape in enumerate(shapes)]
        averages = [0.1 * normal(*shape, seed=20 + index) for index, shape in enumerate(shapes)]
        squares = [0.1 * normal(*shape, seed=30 + index).square() for index, shape in enumerate(shapes)]
        if options["step"] == 1:
            averages, squares = [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params]
        return Sample(name, (*params, *grads, *averages, *squares), {**settings, **options}, SMALL)

    return [
        sample("first step", [(5, 7)], step=1),
        sample("later step", [(33,), (4, 8), (2, 3, 5)], step=7),
        sample("no decay", [(6, 4), (17,)], step=3, weight_decay=0.0),
        sample("large eps", [(6, 4)], step=2, eps=0.1),
        sample("thousandth step", [(130,)], step=1000),
        sample("a scalar and nothing", [(), (0, 3), (9,)], step=2),
        sample("no tensors", [], step=1),
    ]
