"""Packages that announce something broken: every fault is a reason in a message, and nothing falls back in silence."""

from collections.abc import Callable
from pathlib import Path

import pytest
from installed import install

import hal
from hal import discovery
from hal.kernels import selection
from hal.kernels.sample import SMALL

Install = Callable[..., None]

DEVICES = """
import sys
import hal
from hal.devices.cpu import CpuAccelerator

class Abacus(CpuAccelerator):
    name = "abacus"

class Half(hal.Accelerator):
    name = "abacus"

class Nameless(CpuAccelerator):
    def __getattribute__(self, name):
        if name in ("name", "ray_resource"):
            raise AttributeError(name)
        return super().__getattribute__(name)

def stuck():
    raise hal.UnavailableError("the beads are stuck; oil them")

def broken():
    raise ZeroDivisionError("no beads")

def leaving():
    sys.exit("not with me")

def number():
    return 42

def other_name():
    device = Abacus()
    device.name = "slide_rule"
    return device
"""

KERNELS = """
from hal import Provider

def swiglu(x):
    gate, up = x.chunk(2, dim=-1)
    return gate * gate.sigmoid() * up

def half(x, wait):
    return x

def raises(accelerator, facts):
    raise KeyError("dtype")

def answers_true(accelerator, facts):
    return True

GOOD = [Provider("swiglu", "by_hand", swiglu)]
UNKNOWN_OP = [Provider("swoglu", "by_hand", swiglu)]
OTHER_SIGNATURE = [Provider("swiglu", "by_hand", half)]
TAKEN = [Provider("swiglu", "torch", swiglu)]
NUMBER = 42
NUMBERS = [42]
RAISES = [Provider("swiglu", "by_hand", swiglu, raises)]
ANSWERS_TRUE = [Provider("swiglu", "by_hand", swiglu, answers_true)]
"""


@pytest.fixture
def announce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """`announce(group, name, value, package="added")` installs a package with one entry point."""

    def do(group: str, name: str, value: str, package: str = "added") -> None:
        modules = {f"{package}_devices.py": DEVICES, f"{package}_kernels.py": KERNELS}
        modules[f"{package}_raises.py"] = "raise ZeroDivisionError('at import')"
        modules[f"{package}_leaves.py"] = "import sys; sys.exit(3)"
        install(tmp_path / package, package, modules, f"[{group}]\n{name} = {package}_{value}\n")
        monkeypatch.syspath_prepend(str(tmp_path / package))

    discovery._log_once.cache_clear()
    selection._warn_once.cache_clear()
    return do


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("nowhere:Device", r"added \(added_nowhere:Device\) does not load: ModuleNotFoundError"),
        ("devices:Device", "does not load: AttributeError: .*Device"),
        ("raises:Device", "does not load: ZeroDivisionError: at import"),
        ("leaves:Device", "does not load: SystemExit: 3"),
        ("devices:broken", "looking for it, added .* raised ZeroDivisionError: no beads"),
        ("devices:leaving", "raised SystemExit: not with me"),
        ("devices:Half", "raised TypeError: .*abstract"),
        ("devices:DEVICE_COUNT", "does not load: AttributeError"),
        ("devices:Nameless", "returned an accelerator without name, ray_resource"),
        ("devices:number", "returned 42, which is not a hal.Accelerator"),
        ("devices:other_name", "announces it as 'abacus', but it calls itself 'slide_rule'"),
        ("devices:stuck", "the beads are stuck; oil them"),
    ],
)
def test_a_device_that_cannot_be_had_says_why(announce: Install, value: str, reason: str) -> None:
    announce("hal.accelerators", "abacus", value)
    with pytest.raises(hal.UnavailableError, match=rf"abacus: .*{reason}") as raised:
        hal.choose("abacus")
    assert "  cpu: usable" in str(raised.value)
    assert hal.choose("cpu").name == "cpu"


def test_auto_warns_of_a_broken_package_and_not_of_an_absent_device(
    announce: Install, caplog: pytest.LogCaptureFixture
) -> None:
    announce("hal.accelerators", "abacus", "devices:stuck")
    assert hal.choose("auto").name != "abacus"
    assert "WARNING" not in caplog.text
    announce("hal.accelerators", "slide_rule", "raises:Device", package="another")
    assert hal.choose("auto").name != "slide_rule"
    assert "not slide_rule: another (another_raises:Device) does not load" in caplog.text
    assert "WARNING" in caplog.text


def test_two_packages_under_one_name_are_both_refused(announce: Install) -> None:
    announce("hal.accelerators", "abacus", "devices:Abacus", package="one")
    announce("hal.accelerators", "abacus", "devices:Abacus", package="two")
    with pytest.raises(hal.UnavailableError, match=r"two \(.*\) and one \(.*\) announce the same name"):
        hal.choose("abacus")
    assert hal.choose("auto").name != "abacus"


def test_a_package_cannot_take_the_name_of_a_device_of_ours(announce: Install) -> None:
    announce("hal.accelerators", "cpu", "devices:Abacus")
    (refused,) = (found for found in hal.candidates() if found.name.startswith("cpu of"))
    assert refused.name == "cpu of added (added_devices:Abacus)"
    assert "the name is taken" in str(refused.reason)
    assert type(hal.choose("cpu")).__name__ == "CpuAccelerator"


@pytest.mark.parametrize(
    ("value", "left_out", "reason"),
    [
        ("nowhere:KERNELS", "mine", "does not load: ModuleNotFoundError"),
        ("raises:KERNELS", "mine", "does not load: ZeroDivisionError: at import"),
        ("leaves:KERNELS", "mine", "does not load: SystemExit: 3"),
        ("kernels:NUMBER", "mine", "is no list of hal.Provider: TypeError"),
        ("kernels:NUMBERS", "42 of added (added_kernels:NUMBERS)", "it is not a hal.Provider"),
        ("kernels:UNKNOWN_OP", "swoglu/by_hand of added (added_kernels:UNKNOWN_OP)", "serves op 'swoglu'"),
        (
            "kernels:OTHER_SIGNATURE",
            "swiglu/by_hand of added (added_kernels:OTHER_SIGNATURE)",
            "takes (x, wait)",
        ),
        ("kernels:TAKEN", "swiglu/torch of added (added_kernels:TAKEN)", "the name is taken"),
    ],
)
def test_kernels_that_cannot_be_added_are_left_out_with_a_warning(
    announce: Install, caplog: pytest.LogCaptureFixture, value: str, left_out: str, reason: str
) -> None:
    announce("hal.kernels", "mine", value)
    kernels = hal.select(hal.choose("cpu"), SMALL)
    assert kernels.providers["swiglu"] == "torch"
    assert reason in kernels.refused[left_out]
    assert f"kernel {left_out} is left out: " in caplog.text
    assert f"not added: {left_out}: " in kernels.table()
    assert kernels.as_dict()["not_added"] == dict(kernels.refused)


def test_asking_for_a_kernel_that_was_left_out_is_an_error_with_the_reason(announce: Install) -> None:
    announce("hal.kernels", "mine", "raises:KERNELS")
    with pytest.raises(hal.KernelUnavailableError) as raised:
        hal.select(hal.choose("cpu"), SMALL, {"swiglu": "by_hand"})
    assert "there is no provider of that name" in str(raised.value)
    assert "left out: mine: added (added_raises:KERNELS) does not load: ZeroDivisionError" in str(
        raised.value
    )


def test_two_packages_with_one_kernel_name_are_both_left_out(announce: Install) -> None:
    announce("hal.kernels", "mine", "kernels:GOOD", package="one")
    announce("hal.kernels", "mine", "kernels:GOOD", package="two")
    kernels = hal.select(hal.choose("cpu"), SMALL)
    assert kernels.providers["swiglu"] == "torch"
    assert len(kernels.refused) == 2


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("kernels:RAISES", "asked whether it can serve, it raised KeyError: 'dtype'"),
        ("kernels:ANSWERS_TRUE", "it returned True, neither None nor a reason"),
    ],
)
def test_a_kernel_that_gives_no_proper_answer_does_not_serve(
    announce: Install, value: str, reason: str
) -> None:
    announce("hal.kernels", "mine", value)
    assert reason in hal.select(hal.choose("cpu"), SMALL).reasons["swiglu"]["by_hand"]
    with pytest.raises(hal.KernelUnavailableError, match="can't serve it"):
        hal.select(hal.choose("cpu"), SMALL, {"swiglu": "by_hand"})


def test_unknown_ops_and_providers_are_answered_with_what_there_is() -> None:
    with pytest.raises(hal.HalError, match=r"ops that do not exist: swoglu; ops are .*swiglu"):
        hal.select(hal.choose("cpu"), SMALL, {"swoglu": "torch"})
    with pytest.raises(hal.KernelUnavailableError, match=r"no provider of that name.*[\s\S]*  torch: usable"):
        hal.select(hal.choose("cpu"), SMALL, {"swiglu": "torhc"})
