"""A kernel against its op's reference: the same results, the same gradients, on every sample."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hal.accelerator import Accelerator
from hal.kernels.provider import Provider
from hal.kernels.registry import OPS, Op
from hal.kernels.sample import Sample
from hal.kernels.tolerances import allowed


@dataclass(frozen=True, slots=True)
class Outcome:
    """Results, and gradients of the floating-point inputs for a fixed direction of the results."""

    results: list[torch.Tensor]
    gradients: list[torch.Tensor]


def run(op: Op, function: Callable[..., Any], sample: Sample) -> Outcome:
    """Forward, and backward where the op has one; inputs are those of the sample itself, strides and all."""
    inputs = [tensor.detach().requires_grad_(tensor.is_floating_point()) for tensor in sample.tensors]
    results = op.call(function, inputs, sample.options)
    if not op.differentiable:
        return Outcome(results, [])
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    differentiable = [result for result in results if result.requires_grad]
    directions = [_direction(result) for result in differentiable]
    gradients = torch.autograd.grad(differentiable, wanted, directions)
    return Outcome([result.detach() for result in results], list(gradients))


def check_kernel(
    provider: Provider,
    accelerator: Accelerator,
    sample: Sample,
    *,
    function: Callable[..., Any] | None = None,
) -> None:
    """Compare with the reference in float64 on the host.

    `sample` is on the accelerator, in the type to be tried (`Sample.to`). `function` is called in place of the
    provider's, for tests that wrap it. Raises `AssertionError` with the error and what is allowed."""
    op, dtype = OPS[provider.op], sample.facts.dtype
    found = run(op, function or provider.function, sample)
    exact = run(op, op.reference, sample.to(torch.device("cpu"), torch.float64))
    of_results, of_gradients = allowed(provider.op, dtype)
    label = f"{provider.op}/{provider.name} on {accelerator.name}, {dtype}, {sample.name!r}"
    for kind, got, want, limit in (
        ("result", found.results, exact.results, of_results),
        ("gradient", found.gradients, exact.gradients, of_gradients),
    ):
        for index, error in enumerate(errors(got, want)):
            assert error <= limit, f"{label}: {kind} {index} is off by {error:.2e}, allowed {limit:.2e}"


def errors(got: Sequence[torch.Tensor], want: Sequence[torch.Tensor]) -> list[float]:
    """max|a - b| / max|b|, tensor by tensor; infinite where shapes or integers differ, or numbers are missing.

    Zeros have no scale of their own: a tensor of them is measured by the largest number of the others."""
    scales = [_largest(tensor) for tensor in want]
    of_zeros = max(scales, default=0.0) or 1.0
    return [_error(a, b, scale or of_zeros) for a, b, scale in zip(got, want, scales, strict=True)]


def _largest(tensor: torch.Tensor) -> float:
    return tensor.abs().max().item() if tensor.is_floating_point() and tensor.numel() else 0.0


def _error(got: torch.Tensor, want: torch.Tensor, scale: float) -> float:
    if got.shape != want.shape or not bool(got.isfinite().all()):
        return float("inf")
    if not want.is_floating_point():
        return 0.0 if bool((got.to(want.device) == want).all()) else float("inf")
    if want.numel() == 0:
        return 0.0
    return (got.to(want.device, want.dtype) - want).abs().max().item() / scale


def _direction(result: torch.Tensor) -> torch.Tensor:
    """The same numbers between -1 and 1 for every type and device, all of them exact in bfloat16."""
    count = torch.arange(result.numel(), dtype=torch.float64)
    numbers = ((count * 37) % 64 - 31.5) / 32
    return numbers.reshape(result.shape).to(result.device, result.dtype)
