"""How far a kernel may be from its reference, and why that far.

The error of a tensor is max|a - b| / max|b|, where b comes from the reference in float64 on inputs that were
rounded to the kernel's type before. So each number counts roundings inside the kernel only, in units of the type's
spacing at 1 (`torch.finfo(dtype).eps`: float64 2e-16, float32 1e-7, float16 1e-3, bfloat16 8e-3).
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Tolerance:
    """In units of the type's eps."""

    forward: float
    gradient: float
    reason: str


_POINTWISE = Tolerance(2, 4, "computed wide or in a handful of roundings to nearest, half an eps each")
TOLERANCES: dict[str, Tolerance] = {
    "swiglu": _POINTWISE,
    "rotary": _POINTWISE,
    "rms_norm": Tolerance(
        2, 8, "one rounding forward; the weight's gradient adds up rounded terms of all rows"
    ),
    "attention": Tolerance(
        8, 16, "sums over 130 tokens in another order; narrow types round probabilities before each product"
    ),
    "grouped_matmul": Tolerance(
        4,
        4,
        "sums over at most 32 products in another order (2.0 measured in float32), then one rounding",
    ),
    "moe_permute": Tolerance(
        0, 1, "copies: exact; backward rounds the sum of a token's few rows once, half an eps"
    ),
    "moe_unpermute": Tolerance(
        2,
        4,
        "a token's rows are added wide or in a handful of roundings; each prob's gradient adds up 32 terms",
    ),
    "adamw": Tolerance(
        4, 0, "a handful of roundings, half an eps each, one after the other where operators are not fused"
    ),
    "token_log_probs": Tolerance(
        8,
        16,
        "logits are rounded where the vocabulary is multiplied, and a log-prob keeps that error absolutely",
    ),
    "token_loss": Tolerance(
        16,
        16,
        "log-probs as of token_log_probs; their errors remain in a sum in which losses of both signs cancel",
    ),
}


def allowed(op: str, dtype: torch.dtype) -> tuple[float, float]:
    """Largest error of results and of gradients."""
    tolerance, eps = TOLERANCES[op], torch.finfo(dtype).eps
    return tolerance.forward * eps, tolerance.gradient * eps
