"""Versions that were tried together, and how what is installed compares."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import hal
from hal import overview, versions
from hal.kernels import registry
from hal.kernels.provider import NotInstalled, Provider
from hal.kernels.sample import SMALL
from hal.versions import SETS, Installed, compare, nearest_set

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"


def pins(name: str) -> dict[str, str]:
    lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
    return dict(line.split(";")[0].strip().split("==") for line in lines if "==" in line and line[0] != "#")


@pytest.mark.parametrize("tested", SETS, ids=lambda tested: tested.name)
def test_the_sets_say_what_requirements_say(tested: versions.TestedSet) -> None:
    assert tested.versions.items() <= pins(tested.name).items()


def test_every_builtin_device_has_a_set() -> None:
    assert {"cpu", "cuda", "npu"} == {tested.device_type for tested in SETS}
    assert nearest_set("abacus") is None


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (Installed("torch", "2.13.0+cpu", "2.13.0"), "as tried"),
        (Installed("torch", "2.12.1", "2.13.0"), "untried; 2.13.0 was"),
        (Installed("torch-npu", None, "2.13.0"), "2.13.0 was tried"),
        (Installed("triton", "3.9.0", None), None),
    ],
)
def test_a_version_is_held_against_the_one_that_was_tried(found: Installed, verdict: str | None) -> None:
    assert found.verdict == verdict


def test_of_two_sets_for_a_device_the_one_that_is_installed_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("npu-production", "npu-virtual"):
        there = next(tested for tested in SETS if tested.name == name).versions
        monkeypatch.setattr(versions, "installed_version", there.get)
        assert nearest_set("npu").name == name  # type: ignore[union-attr]
    assert [each.version for each in compare({"no-such-package": "1"})] == [None]


def with_provider(monkeypatch: pytest.MonkeyPatch, reason: str) -> Mapping[str, str]:
    """What the overview advises where a provider of rms_norm that comes first says `reason`."""
    first = Provider(
        "rms_norm", "fast", registry.OPS["rms_norm"].reference, lambda accelerator, facts: reason
    )
    before = registry.providers
    of_op = {op: ((first,) if op == "rms_norm" else ()) + tuple(before(op)) for op in registry.OPS}
    for module in (registry, overview):
        monkeypatch.setattr(module, "providers", of_op.__getitem__)
    monkeypatch.setattr("hal.kernels.selection.providers", of_op.__getitem__)
    return overview.better_kernels(hal.select(hal.choose("cpu"), replace(SMALL, dtype=torch.float32)))


def test_a_kernel_that_an_installation_would_bring_is_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    advice = with_provider(monkeypatch, NotInstalled.of("fast-norms>=2", "half the time"))
    assert advice == {
        "rms_norm: fast": "fast-norms>=2 is not installed; pip install 'fast-norms>=2' (half the time)"
    }


def test_other_reasons_are_no_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_provider(monkeypatch, "wants heads of 128") == {}
