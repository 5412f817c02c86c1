"""All ops and all providers: the built-in ones, and those that installed packages announce.

A package adds kernels by an entry point in the group `hal.kernels` that loads to an iterable of `Provider`. They
come before the built-in ones, because somebody installed them on purpose. What is wrong with them is quoted wherever
a kernel is chosen.
"""

import difflib
import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from hal.accelerator import Accelerator
from hal.errors import HalError
from hal.kernels import (
    adamw,
    attention,
    grouped_matmul,
    moe_permute,
    moe_unpermute,
    rms_norm,
    rotary,
    swiglu,
    token_log_probs,
    token_loss,
)
from hal.kernels.facts import KernelFacts
from hal.kernels.provider import Provider
from hal.kernels.providers import (
    flash_attn,
    liger,
    torch_chunked,
    torch_chunked_loss,
    torch_moe,
    torch_npu_attention,
    torch_npu_layers,
    torch_npu_moe,
    torch_npu_optimizer,
    torch_ops,
    torch_optimizer,
    torch_sdpa,
    torch_varlen,
    transformer_engine,
)
from hal.kernels.sample import Sample
from hal.plugins import FAULTS, announced, fault

ENTRY_POINT_GROUP = "hal.kernels"


Call = Callable[[Callable[..., Any], Sequence[torch.Tensor], Mapping[str, Any]], list[torch.Tensor]]


def positional(
    function: Callable[..., Any], tensors: Sequence[torch.Tensor], options: Mapping[str, Any]
) -> list[torch.Tensor]:
    """Tensors by position; of a tuple of results, those that are there."""
    output = function(*tensors, **options)
    results = cast(tuple[Any, ...], output if isinstance(output, tuple) else (output,))
    return [result for result in results if result is not None]


@dataclass(frozen=True, slots=True)
class Op:
    """What is to be computed."""

    name: str
    reference: Callable[..., Any]
    """The contract: its signature and its results."""
    samples: Callable[[], list[Sample]]
    """Calls on which every provider must agree with the reference."""
    call: Call = positional
    """Hands a sample's tensors and options to a kernel; returns the results."""
    differentiable: bool = True
    asked_for: Callable[[KernelFacts], bool] = lambda facts: True
    """Whether a model of these facts computes it at all: what is never called is not shown."""


def _has_experts(facts: KernelFacts) -> bool:
    return facts.num_experts is not None


OPS: Mapping[str, Op] = {
    op.name: op
    for op in (
        Op("rms_norm", rms_norm.reference, rms_norm.samples),
        Op("attention", attention.reference, attention.samples),
        Op("rotary", rotary.reference, rotary.samples),
        Op("swiglu", swiglu.reference, swiglu.samples),
        Op("token_log_probs", token_log_probs.reference, token_log_probs.samples),
        Op("token_loss", token_loss.reference, token_loss.samples),
        Op("grouped_matmul", grouped_matmul.reference, grouped_matmul.samples, asked_for=_has_experts),
        Op("moe_permute", moe_permute.reference, moe_permute.samples, asked_for=_has_experts),
        Op("moe_unpermute", moe_unpermute.reference, moe_unpermute.samples, asked_for=_has_experts),
        Op(
            "adamw",
            adamw.reference,
            adamw.samples,
            adamw.call,
            differentiable=False,
            asked_for=lambda facts: facts.own_optimizer,
        ),
    )
}

# Of one device's own library first, then torch's, then the references.
_BUILT_IN: tuple[Provider, ...] = (
    *torch_npu_attention.PROVIDERS,
    *torch_npu_layers.PROVIDERS,
    *torch_npu_moe.PROVIDERS,
    *torch_npu_optimizer.PROVIDERS,
    *flash_attn.PROVIDERS,
    *transformer_engine.PROVIDERS,
    *liger.PROVIDERS,
    *torch_varlen.PROVIDERS,
    *torch_sdpa.PROVIDERS,
    *torch_ops.PROVIDERS,
    *torch_chunked.PROVIDERS,
    *torch_chunked_loss.PROVIDERS,
    *torch_moe.PROVIDERS,
    *torch_optimizer.PROVIDERS,
    *(Provider(op.name, "reference", op.reference) for op in OPS.values()),
)


@dataclass(frozen=True, slots=True)
class PlugIns:
    """What installed packages add."""

    providers: tuple[Provider, ...]
    refused: Mapping[str, str]
    """Why a package, or one of its providers, is left out."""


def plug_ins() -> PlugIns:
    """Whole providers of installed packages, and the reasons against the others."""
    offered: list[tuple[str, Provider]] = []
    refused: dict[str, str] = {}
    for plug_in in announced(ENTRY_POINT_GROUP):
        if plug_in.reason is not None:
            refused[plug_in.name] = plug_in.reason
            continue
        try:
            offered += [(plug_in.origin, provider) for provider in plug_in.loaded]
        except FAULTS as error:
            refused[plug_in.name] = f"{plug_in.origin} is no list of hal.Provider: {fault(error)}"
    taken = Counter(_name(provider) for provider in (*(p for _, p in offered), *_BUILT_IN))
    kept: list[Provider] = []
    for origin, provider in offered:
        reason = _why_refused(provider, taken)
        if reason is None:
            kept.append(provider)
        else:
            refused[f"{_name(provider)} of {origin}"] = reason
    return PlugIns(tuple(kept), refused)


def providers(op: str) -> tuple[Provider, ...]:
    """All providers of an op, in the order in which `auto` tries them; the reference is the last."""
    if op not in OPS:
        near = difflib.get_close_matches(op, OPS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise HalError(f"there is no op {op!r} (there are {', '.join(OPS)}){hint}")
    return tuple(provider for provider in (*plug_ins().providers, *_BUILT_IN) if provider.op == op)


def why_not(provider: Provider, accelerator: Accelerator, facts: KernelFacts) -> str | None:
    """The provider's own answer; of an added one, that it gave none is an answer too."""
    if provider in _BUILT_IN:
        return provider.why_not(accelerator, facts)
    try:
        answer: Any = provider.why_not(accelerator, facts)
    except FAULTS as error:
        return f"asked whether it can serve, it raised {fault(error)}"
    if answer is None or (isinstance(answer, str) and answer):
        return answer
    return f"asked whether it can serve, it returned {answer!r}, neither None nor a reason"


def _name(provider: Any) -> str:
    return f"{provider.op}/{provider.name}" if isinstance(provider, Provider) else repr(provider)


def _why_refused(provider: Any, taken: Mapping[str, int]) -> str | None:
    if not isinstance(provider, Provider):
        return "it is not a hal.Provider"
    if taken[_name(provider)] > 1:
        return "the name is taken by another provider of this op; rename it"
    try:
        check_signature(provider)
    except HalError as error:
        return str(error)
    return None


def check_signature(provider: Provider) -> None:
    """Raise if a provider does not take what its op's reference takes."""
    if provider.op not in OPS:
        raise HalError(f"provider {provider.name} serves op {provider.op!r}; there are {', '.join(OPS)}")
    wanted = _parameters(OPS[provider.op].reference)
    given = _parameters(provider.function)
    if wanted != given:
        raise HalError(
            f"provider {provider.name} of op {provider.op} takes ({', '.join(given)}), "
            f"but the contract is ({', '.join(wanted)})"
        )


def _parameters(function: Callable[..., Any]) -> list[str]:
    """Name, kind and default of each parameter, as they read in a signature."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise HalError(f"{function!r} has no signature: {error}") from error
    return [str(parameter.replace(annotation=inspect.Parameter.empty)) for parameter in parameters]
