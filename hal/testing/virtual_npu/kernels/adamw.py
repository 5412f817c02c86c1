"""npu_apply_adam_w: one step of AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101, algorithm 2), in place."""

from typing import Any

import torch

from hal.testing.virtual_npu.kernels.host import on_host
from hal.testing.virtual_npu.kernels.refusals import (
    FLOATS,
    refuse,
    refuse_if_given,
    refuse_other_shape,
    refuse_other_types,
    refuse_unequal_types,
)

_OPERATOR = "npu_apply_adam_w"


def npu_apply_adam_w_out(
    beta1_power: float,
    beta2_power: float,
    lr: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    grad: torch.Tensor,
    max_grad_norm: torch.Tensor | None,
    amsgrad: bool | None,
    maximize: bool | None,
    *,
    out: list[torch.Tensor],
) -> tuple[Any, ...]:
    """`out`: parameter, first and second moment, which change. The powers are those before this step: beta ** (t - 1)."""
    refuse_if_given(_OPERATOR, max_grad_norm=max_grad_norm)
    if amsgrad:
        refuse(_OPERATOR, "amsgrad", amsgrad, "False: the virtual NPU does not simulate it")
    if len(out) != 3:
        refuse(_OPERATOR, "out", f"{len(out)} tensors", "3: parameter, first and second moment")
    correction1, correction2 = 1 - beta1_power * beta1, 1 - beta2_power * beta2
    _step(
        out[0], out[1], out[2], grad, float(lr), float(weight_decay), float(beta1), float(beta2), float(epsilon),
        float(correction1), float(correction2), bool(maximize),
    )  # fmt: skip
    return tuple(out)


@on_host
def _step(
    var: torch.Tensor,
    m: torch.Tensor,
    v: torch.Tensor,
    grad: torch.Tensor,
    lr: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    correction1: float,
    correction2: float,
    maximize: bool,
) -> None:
    refuse_other_types(_OPERATOR, FLOATS, var=var)
    refuse_unequal_types(_OPERATOR, var=var, m=m, v=v, grad=grad)
    for name, tensor in (("m", m), ("v", v), ("grad", grad)):
        refuse_other_shape(_OPERATOR, name, tensor, var.shape, "the shape of 'var'")
    g = -grad.float() if maximize else grad.float()
    first = beta1 * m.float() + (1 - beta1) * g
    second = beta2 * v.float() + (1 - beta2) * g * g
    denominator = (second / correction2).sqrt() + epsilon
    var.copy_(var.float() * (1 - lr * weight_decay) - lr / correction1 * first / denominator)
    m.copy_(first)
    v.copy_(second)
