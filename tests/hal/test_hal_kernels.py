"""Every provider computes what its op's reference says, gradients included."""

import pytest
import torch

import hal
from hal.kernels.provider import Provider
from hal.kernels.registry import OPS, check_signature, providers
from hal.kernels.sample import Sample
from hal.kernels.tolerances import TOLERANCES
from hal.testing.kernel_checks import check_kernel

DEVICES = ("cpu", "cuda", "npu")
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
KERNELS = [
    (provider, sample) for op in OPS.values() for provider in providers(op.name) for sample in op.samples()
]


@pytest.fixture(params=DEVICES, scope="module")
def accelerator(request: pytest.FixtureRequest) -> hal.Accelerator:
    found = {candidate.name: candidate for candidate in hal.candidates()}[request.param]
    if found.accelerator is None:
        pytest.skip(f"{request.param}: {found.reason}")
    return found.accelerator


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("provider", "sample"), KERNELS, ids=[f"{p.op}-{p.name}-{s.name.replace(' ', '_')}" for p, s in KERNELS]
)
def test_results_and_gradients_equal_the_reference(
    accelerator: hal.Accelerator, provider: Provider, sample: Sample, dtype: torch.dtype
) -> None:
    reason = accelerator.supports_dtype(dtype) or provider.why_not(
        accelerator, sample.to(accelerator.device(), dtype).facts
    )
    if reason is not None:
        pytest.skip(f"{provider.name}: {reason}")
    check_kernel(provider, accelerator, sample, dtype)


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_samples_a_tolerance_and_its_reference_as_last_resort(op: str) -> None:
    assert OPS[op].samples()
    assert TOLERANCES[op].reason
    assert providers(op)[-1].function is OPS[op].reference
    for provider in providers(op):
        check_signature(provider)


@pytest.mark.parametrize("op", [op.name for op in OPS.values() if op.differentiable])
def test_references_have_the_gradient_of_what_they_compute(op: str) -> None:
    for sample in OPS[op].samples():
        inputs = [t.clone().requires_grad_(t.is_floating_point()) for t in sample.tensors]
        assert torch.autograd.gradcheck(
            lambda *tensors, options=sample.options: tuple(
                result
                for result in OPS[op].call(OPS[op].reference, tensors, options)
                if result.is_floating_point()
            ),
            inputs,
            fast_mode=True,
        )
