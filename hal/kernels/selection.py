"""One provider an op, chosen once: the object that is passed down to whoever computes."""

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hal.accelerator import Accelerator
from hal.errors import HalError, KernelUnavailableError
from hal.kernels.adamw import Adamw
from hal.kernels.attention import Attention
from hal.kernels.facts import KernelFacts
from hal.kernels.grouped_matmul import GroupedMatmul
from hal.kernels.moe_permute import MoePermute
from hal.kernels.moe_unpermute import MoeUnpermute
from hal.kernels.provider import Provider
from hal.kernels.registry import OPS, plug_ins, providers, why_not
from hal.kernels.rms_norm import RmsNorm
from hal.kernels.rotary import Rotary
from hal.kernels.swiglu import Swiglu
from hal.kernels.token_log_probs import TokenLogProbs
from hal.kernels.token_loss import TokenLoss

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The kernels of one model, the same ones for everything that computes its log-probs."""

    accelerator: str
    facts: KernelFacts
    rms_norm: RmsNorm
    attention: Attention
    rotary: Rotary
    swiglu: Swiglu
    token_log_probs: TokenLogProbs
    token_loss: TokenLoss
    grouped_matmul: GroupedMatmul
    moe_permute: MoePermute
    moe_unpermute: MoeUnpermute
    adamw: Adamw
    providers: Mapping[str, str]
    """Name of the chosen provider, by op."""
    reasons: Mapping[str, Mapping[str, str]]
    """Why not the others: by op, by provider."""
    refused: Mapping[str, str]
    """Why kernels that installed packages announce are left out altogether."""

    def table(self) -> str:
        """For people: op, provider, and why not the others; ops that the model computes."""
        shown = self._asked_for()
        width = max(map(len, shown))
        lines: list[str] = []
        for op, chosen in shown.items():
            lines.append(f"{op:<{width}}  {chosen}")
            lines += [f"{'':<{width}}    not {name}: {reason}" for name, reason in self.reasons[op].items()]
        lines += [f"not added: {name}: {reason}" for name, reason in self.refused.items()]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The same for machines, with the facts: plain types only."""
        facts = {name: getattr(self.facts, name) for name in KernelFacts.__slots__}
        return {
            "accelerator": self.accelerator,
            "facts": {**facts, "dtype": str(self.facts.dtype).removeprefix("torch.")},
            "kernels": {
                op: {"provider": chosen, "not": dict(self.reasons[op])}
                for op, chosen in self._asked_for().items()
            },
            "not_added": dict(self.refused),
        }

    def _asked_for(self) -> dict[str, str]:
        return {op: chosen for op, chosen in self.providers.items() if OPS[op].asked_for(self.facts)}


def select(
    accelerator: Accelerator, facts: KernelFacts, choices: Mapping[str, str] | None = None
) -> Selection:
    """Pick a provider for every op: the one that `choices` names, else (or for `auto`) the first that can serve.

    Raises `KernelUnavailableError` with every provider's reason."""
    unknown = sorted(set(choices or {}) - set(OPS))
    if unknown:
        raise HalError(
            f"kernels are chosen for ops that do not exist: {', '.join(unknown)}; ops are {', '.join(OPS)}"
        )
    refused = plug_ins().refused
    for name, reason in refused.items():
        _warn_once(f"kernel {name} is left out: {reason}")
    chosen: dict[str, Provider] = {}
    reasons: dict[str, dict[str, str]] = {}
    for op in OPS:
        choice = (choices or {}).get(op, "auto")
        chosen[op], reasons[op] = _pick(op, accelerator, facts, choice, refused)
    return Selection(
        accelerator=accelerator.name,
        facts=facts,
        rms_norm=chosen["rms_norm"].function,
        attention=chosen["attention"].function,
        rotary=chosen["rotary"].function,
        swiglu=chosen["swiglu"].function,
        token_log_probs=chosen["token_log_probs"].function,
        token_loss=chosen["token_loss"].function,
        grouped_matmul=chosen["grouped_matmul"].function,
        moe_permute=chosen["moe_permute"].function,
        moe_unpermute=chosen["moe_unpermute"].function,
        adamw=chosen["adamw"].function,
        providers={op: provider.name for op, provider in chosen.items()},
        reasons=reasons,
        refused=refused,
    )


def _pick(
    op: str, accelerator: Accelerator, facts: KernelFacts, choice: str, refused: Mapping[str, str]
) -> tuple[Provider, dict[str, str]]:
    candidates = providers(op)
    verdicts = {provider.name: why_not(provider, accelerator, facts) for provider in candidates}
    usable = [
        provider
        for provider in candidates
        if verdicts[provider.name] is None and choice in ("auto", provider.name)
    ]
    if not usable:
        message = _why_none(op, accelerator, facts, choice, verdicts)
        left_out = [f"  left out: {name}: {reason}" for name, reason in refused.items()]
        raise KernelUnavailableError("\n".join([message, *left_out]))
    winner = usable[0]
    instead = f"{winner.name} comes first" if choice == "auto" else f"{winner.name} was asked for"
    return winner, {name: reason or instead for name, reason in verdicts.items() if name != winner.name}


@functools.cache
def _warn_once(message: str) -> None:
    _log.warning(message)


def _why_none(
    op: str, accelerator: Accelerator, facts: KernelFacts, choice: str, verdicts: Mapping[str, str | None]
) -> str:
    if choice == "auto":
        asked = "nothing can serve it"
    elif choice in verdicts:
        asked = f"{choice!r} was asked for and can't serve it"
    else:
        asked = f"{choice!r} was asked for, and there is no provider of that name"
    lines = [f"op {op} on {accelerator.name} with {facts}: {asked}:"]
    lines += [f"  {name}: {reason or 'usable'}" for name, reason in verdicts.items()]
    names = [name for name, reason in verdicts.items() if reason is None]
    lines.append(f"Choose one of: {', '.join([*names, 'auto'])}." if names else "Change the facts.")
    return "\n".join(lines)
