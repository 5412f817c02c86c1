"""Attention over sequences that are cut over ranks equals attention over whole ones, gradients included."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

import hal
from hal.kernels import attention
from hal.kernels.context_parallel import context_parallel_attention, zigzag
from hal.kernels.registry import providers
from hal.kernels.sample import SMALL, normal
from hal.kernels.tolerances import allowed
from hal.testing.kernel_checks import errors

FACTS = replace(SMALL, context_parallel_size=2)
"""A model whose sequences are cut over two ranks."""
_SCALE = SMALL.head_dim**-0.5
_PACKED = torch.tensor([0, 16, 24, 56], dtype=torch.int32)


def run_all(rank: int, world_size: int, accelerator: str) -> list[str]:
    """Every attention kernel that serves here, dense and packed, with equal and unequal heads; what was compared."""
    chosen = hal.choose(accelerator)
    done: list[str] = []
    for provider in providers("attention"):
        for dtype in (torch.float32, torch.bfloat16):
            for packed in (False, True):
                for value_dim in (SMALL.head_dim, 6):
                    facts = replace(
                        SMALL,
                        dtype=dtype,
                        packed=packed,
                        value_head_dim=value_dim,
                        context_parallel_size=world_size,
                    )
                    if provider.why_not(chosen, facts) is None:
                        label = f"{provider.name}, {dtype}, packed {packed}, value heads of {value_dim}"
                        _compare(provider.function, label, chosen.device(), facts, rank, world_size)
                        done.append(label)
    return done


def _compare(
    kernel: Callable[..., torch.Tensor],
    label: str,
    device: torch.device,
    facts: hal.KernelFacts,
    rank: int,
    world_size: int,
) -> None:
    options: dict[str, Any] = {"cu_seqlens": _PACKED, "max_seqlen": 32} if facts.packed else {}
    whole = [tensor.to(facts.dtype) for tensor in _problem(facts)]
    exact = _result_and_gradients(
        partial(attention.reference, softmax_scale=_SCALE, **options), [tensor.double() for tensor in whole]
    )
    cut = partial(
        zigzag,
        rank=rank,
        world_size=world_size,
        dim=0 if facts.packed else 1,
        cu_seqlens=options.get("cu_seqlens"),
    )
    if facts.packed:
        options["cu_seqlens"] = _PACKED.to(device)
    group = dist.group.WORLD
    assert group is not None
    found = _result_and_gradients(
        partial(context_parallel_attention, kernel, group=group, softmax_scale=_SCALE, **options),
        [cut(tensor).to(device) for tensor in whole],
    )
    of_results, of_gradients = allowed("attention", facts.dtype)
    result, *gradients = errors(found, [cut(tensor) for tensor in exact])
    assert result <= of_results, f"{label}: result is off by {result:.2e}, allowed {of_results:.2e}"
    assert max(gradients) <= of_gradients, (
        f"{label}: gradients are off by {gradients}, allowed {of_gradients:.2e}"
    )


def _problem(facts: hal.KernelFacts) -> list[torch.Tensor]:
    """Query, key and value of whole sequences, and a direction for the result."""
    leading = (int(_PACKED[-1]),) if facts.packed else (2, 24)
    value_dim = facts.value_head_dim or facts.head_dim
    return [
        normal(*leading, facts.num_heads, facts.head_dim, seed=0),
        normal(*leading, facts.num_kv_heads, facts.head_dim, seed=1),
        normal(*leading, facts.num_kv_heads, value_dim, seed=2),
        normal(*leading, facts.num_heads, value_dim, seed=3),
    ]


def _result_and_gradients(
    function: Callable[..., torch.Tensor], tensors: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    inputs = [tensor.clone().requires_grad_() for tensor in tensors[:3]]
    output = function(*inputs)
    return [output.detach(), *torch.autograd.grad(output, inputs, tensors[3])]
