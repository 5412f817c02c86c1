"""All ops and all providers: the built-in ones, and those that installed packages announce.

A package adds kernels by an entry point in the group `hal.kernels` that loads to an iterable of `Provider`. They
come before the built-in ones, because somebody installed them on purpose.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from hal.errors import HalError
from hal.kernels import attention, rms_norm, rotary, swiglu, token_log_probs
from hal.kernels.provider import Check, Provider, always
from hal.kernels.providers import torch_chunked, torch_ops, torch_sdpa, torch_varlen
from hal.kernels.sample import Sample

ENTRY_POINT_GROUP = "hal.kernels"


@dataclass(frozen=True, slots=True)
class Op:
    """What is to be computed."""

    name: str
    reference: Callable[..., Any]
    """The contract: its signature and its results."""
    samples: Callable[[], list[Sample]]
    """Calls on which every provider must agree with the reference."""
    why_not: Check = always
    """What the contract itself leaves out, whoever provides it."""


OPS: Mapping[str, Op] = {
    op.name: op
    for op in (
        Op("rms_norm", rms_norm.reference, rms_norm.samples),
        Op("attention", attention.reference, attention.samples, attention.why_not),
        Op("rotary", rotary.reference, rotary.samples),
        Op("swiglu", swiglu.reference, swiglu.samples),
        Op("token_log_probs", token_log_probs.reference, token_log_probs.samples),
    )
}

_BUILT_IN: tuple[Provider, ...] = (
    *torch_varlen.PROVIDERS,
    *torch_sdpa.PROVIDERS,
    *torch_ops.PROVIDERS,
    *torch_chunked.PROVIDERS,
    *(Provider(op.name, "reference", op.reference) for op in OPS.values()),
)


def providers(op: str) -> tuple[Provider, ...]:
    """All providers of an op, in the order in which `auto` tries them; the reference is the last."""
    if op not in OPS:
        near = difflib.get_close_matches(op, OPS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise HalError(f"there is no op {op!r} (there are {', '.join(OPS)}){hint}")
    found = [provider for provider in (*_announced(), *_BUILT_IN) if provider.op == op]
    names = [provider.name for provider in found]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise HalError(
            f"op {op} has several providers called {', '.join(sorted(twice))}; rename the added ones"
        )
    return tuple(found)


def _announced() -> list[Provider]:
    added: list[Provider] = []
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        loaded: Iterable[Provider] = entry.load()
        for provider in loaded:
            check_signature(provider)
            added.append(provider)
    return added


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
    parameters = inspect.signature(function).parameters.values()
    return [str(parameter.replace(annotation=inspect.Parameter.empty)) for parameter in parameters]
