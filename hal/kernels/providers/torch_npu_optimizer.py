"""The AdamW step by torch_npu's `npu_apply_adam_w`: one operator a tensor, where torch's lists take about ten."""

from collections.abc import Sequence
from typing import Any

import torch

from hal.accelerator import Accelerator
from hal.kernels.facts import KernelFacts
from hal.kernels.provider import Provider
from hal.kernels.providers import torch_npu_requirements

_npu: Any = torch.ops.npu


@torch.no_grad()
def adamw(
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
    """The operator takes the powers of the step before, and multiplies them once more."""
    powers = beta1 ** (step - 1), beta2 ** (step - 1)
    for tensors in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        if not tensors[0].numel():
            continue
        # It knows tensors of 1 to 8 dimensions.
        param, grad, exp_avg, exp_avg_sq = (t if t.dim() else t.view(1) for t in tensors)
        _npu.npu_apply_adam_w(
            *powers,
            lr,
            weight_decay,
            beta1,
            beta2,
            eps,
            grad,
            None,  # the largest averages, of amsgrad
            False,  # amsgrad
            False,  # maximize
            out=[param, exp_avg, exp_avg_sq],
        )
    # Its schema does not say that it writes, so that autograd would not notice.
    torch.autograd.graph.increment_version([*params, *exp_avgs, *exp_avg_sqs])


def _why_not(accelerator: Accelerator, facts: KernelFacts) -> str | None:
    return torch_npu_requirements.why_not(accelerator, facts, "npu_apply_adam_w")


PROVIDERS = (Provider("adamw", "torch_npu", adamw, _why_not),)
