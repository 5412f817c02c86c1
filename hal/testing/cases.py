"""The calls on which kernels are tried: every provider that serves, every sample, every type."""

from dataclasses import dataclass, replace

import torch

from hal.accelerator import Accelerator
from hal.kernels import registry
from hal.kernels.provider import Provider
from hal.kernels.registry import OPS, Op, providers
from hal.kernels.sample import Sample
from hal.testing.layouts import can_be_padded

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""What models are trained in, and what gradients are checked in."""


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel that serves, and a call of it."""

    accelerator: Accelerator
    provider: Provider
    sample: Sample
    """In float64, on the host."""
    dtype: torch.dtype
    """What the call is to be made in."""

    @property
    def op(self) -> Op:
        return OPS[self.provider.op]

    def rounded(self) -> Sample:
        """The call in its type, on the accelerator."""
        return self.sample.to(self.accelerator.device(), self.dtype)

    def __str__(self) -> str:
        name, dtype = self.sample.name.replace(" ", "_"), str(self.dtype).removeprefix("torch.")
        return f"{self.accelerator.name}-{self.provider.op}-{self.provider.name}-{name}-{dtype}"


def cases(accelerator: Accelerator) -> list[Case]:
    """All cases that are served on this accelerator."""
    every = (
        Case(accelerator, provider, sample, dtype)
        for op in OPS.values()
        for provider in providers(op.name)
        for sample in op.samples()
        for dtype in DTYPES
    )
    return [case for case in every if why_not(case) is None]


def padded_cases(accelerator: Accelerator) -> list[Case]:
    """Those of ops whose tokens may be followed by padding, where providers serve tokens that go to no expert."""
    padded = (
        replace(case, sample=replace(case.sample, facts=replace(case.sample.facts, experts_per_token=None)))
        for case in cases(accelerator)
        if can_be_padded(case.provider.op, case.sample)
    )
    return [case for case in padded if why_not(case) is None]


def dropout_cases(accelerator: Accelerator) -> list[Case]:
    """Attention that drops half of its probabilities, where providers do."""
    dropping = (
        replace(
            case,
            sample=replace(
                case.sample,
                options={**case.sample.options, "dropout_p": 0.5},
                facts=replace(case.sample.facts, dropout=0.5),
            ),
        )
        for case in cases(accelerator)
        if case.provider.op == "attention"
    )
    return [case for case in dropping if why_not(case) is None]


def why_not(case: Case) -> str | None:
    """None if the case is served, else the reason, of the device or of the provider."""
    facts = replace(case.sample.facts, dtype=case.dtype)
    return case.accelerator.supports_dtype(case.dtype) or registry.why_not(
        case.provider, case.accelerator, facts
    )
