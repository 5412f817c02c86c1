"""What is registered is whole: samples, tolerances, signatures, gradients of the references, and nobody is missing."""

import pytest
import torch

import hal
from hal.kernels.provider import NotInstalled
from hal.kernels.registry import OPS, Op, check_signature, plug_ins, providers
from hal.kernels.selection import Selection
from hal.kernels.tolerances import TOLERANCES
from hal.testing.cases import DTYPES, Case, why_not
from hal.testing.expected import EXPECTED, WHERE_INSTALLED, expected


def test_an_op_has_samples_of_different_names(op: Op) -> None:
    names = [sample.name for sample in op.samples()]
    assert names
    assert len(names) == len(set(names))


def test_an_op_has_a_tolerance_with_a_reason(op: Op) -> None:
    assert TOLERANCES[op.name].reason
    assert TOLERANCES[op.name].forward >= 0, "0 means exact"


def test_no_tolerance_is_left_over() -> None:
    assert set(TOLERANCES) == set(OPS)


def test_the_reference_is_the_last_resort(op: Op) -> None:
    assert providers(op.name)[-1].function is op.reference


def test_a_provider_takes_what_the_reference_takes(op: Op) -> None:
    for provider in providers(op.name):
        check_signature(provider)


def test_a_provider_is_importable_by_name_so_that_a_selection_can_travel(op: Op) -> None:
    for provider in providers(op.name):
        function = provider.function
        module = __import__(function.__module__, fromlist=["_"])
        assert getattr(module, function.__name__) is function, provider.name


def test_a_selection_has_a_place_for_the_op(op: Op) -> None:
    assert op.name in Selection.__dataclass_fields__


def test_the_reference_has_the_gradient_of_what_it_computes(op: Op) -> None:
    if not op.differentiable:
        pytest.skip(f"{op.name} has no gradient")
    for sample in op.samples():
        inputs = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in sample.tensors]

        def results(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = op.call(op.reference, tensors, sample.options)  # noqa: B023  called at once
            return tuple(result for result in found if result.requires_grad)

        assert torch.autograd.gradcheck(results, inputs, fast_mode=True), sample.name


def reasons_against(accelerator: hal.Accelerator, op: Op, name: str) -> set[str | None]:
    """Of one provider, over all samples and types; None among them where it serves."""
    registered = {provider.name: provider for provider in providers(op.name)}
    assert name in registered, f"there is no provider {name} of op {op.name} any more"
    return {
        why_not(Case(accelerator, registered[name], sample, dtype))
        for sample in op.samples()
        for dtype in DTYPES
    }


def test_every_expected_provider_serves(accelerator: hal.Accelerator, op: Op) -> None:
    for name in expected(accelerator.device_type, op.name):
        reasons = reasons_against(accelerator, op, name)
        assert None in reasons, f"{name} serves no sample of op {op.name}: {reasons}"


def test_every_provider_from_a_library_serves_or_misses_its_package(
    accelerator: hal.Accelerator, op: Op
) -> None:
    for name in WHERE_INSTALLED.get(accelerator.device_type, {}).get(op.name, ()):
        reasons = reasons_against(accelerator, op, name)
        missing = any(isinstance(reason, NotInstalled) for reason in reasons)
        assert missing or None in reasons, f"{name} serves no sample of op {op.name}: {reasons}"


def test_the_tables_name_every_provider_there_is(op: Op) -> None:
    tables = (*EXPECTED.values(), *WHERE_INSTALLED.values())
    named = {name for table in tables for name in table.get(op.name, ())} | {"reference"}
    added = {provider.name for provider in plug_ins().providers if provider.op == op.name}
    assert {provider.name for provider in providers(op.name)} - added == named


def test_the_table_of_expected_providers_knows_every_op() -> None:
    for device_type, table in EXPECTED.items():
        assert set(table) == set(OPS), device_type


def test_a_provider_that_serves_nothing_says_why(accelerator: hal.Accelerator, op: Op) -> None:
    for provider in providers(op.name):
        for sample in op.samples():
            reason = why_not(Case(accelerator, provider, sample, torch.bfloat16))
            assert reason is None or len(reason) > 10, provider.name
