"""AdamW by the functions behind `torch.optim.AdamW`: all tensors in one launch, or one operator over all of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.adamw import adamw

from hal.accelerator import Accelerator
from hal.kernels.facts import KernelFacts
from hal.kernels.provider import Provider


def fused(
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
    """Reads and writes every number once."""
    if not params:
        return
    _adamw(
        (params, grads, exp_avgs, exp_avg_sqs),
        torch.full((len(params),), step - 1.0, device=params[0].device),
        {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay},
        in_one_launch=True,
    )


def foreach(
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
    """One operator after the other over all tensors, on any device; for a moment there is one more copy of them."""
    if not params:
        return
    _adamw(
        (params, grads, exp_avgs, exp_avg_sqs),
        torch.full((len(params),), step - 1.0),
        {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay},
        in_one_launch=False,
    )


@torch.no_grad()
def _adamw(
    lists: tuple[Sequence[torch.Tensor], ...],
    steps: torch.Tensor,
    numbers: dict[str, Any],
    *,
    in_one_launch: bool,
) -> None:
    """torch counts the step itself, for each parameter: it wants the steps done before."""
    params, grads, exp_avgs, exp_avg_sqs = map(list, lists)
    adamw(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        [],
        list(steps.unbind()),
        foreach=not in_one_launch,
        fused=in_one_launch,
        amsgrad=False,
        maximize=False,
        **numbers,
    )


def _why_not_fused(accelerator: Accelerator, facts: KernelFacts) -> str | None:
    if accelerator.device_type not in ("cpu", "cuda"):
        return f"torch has its fused AdamW for cpu and cuda, not for {accelerator.device_type}"
    return None


PROVIDERS = (
    Provider("adamw", "torch_fused", fused, _why_not_fused),
    Provider("adamw", "torch_foreach", foreach),
)
