"""The option `--accelerator`, and what each test is run on: devices, ops, and the kernels that serve there."""

import pytest

import hal
from hal.kernels.registry import OPS
from hal.testing.cases import cases, dropout_cases, padded_cases

OPTION = "--accelerator"

_CASES = {"case": cases, "padded_case": padded_cases, "dropout_case": dropout_cases}
_ACCELERATORS: pytest.StashKey[list[hal.Accelerator]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        OPTION,
        action="append",
        default=[],
        metavar="NAME",
        help="accelerator that hal.testing examines; may be repeated; default: all that are usable here",
    )


def pytest_configure(config: pytest.Config) -> None:
    """An accelerator that is asked for and not there ends the run, with the reason."""
    # The default is for a conftest.py that pytest met only while it collected: see hal_pytest.py.
    names: list[str] = config.getoption(OPTION, default=None) or []
    try:
        chosen = [hal.choose(name) for name in dict.fromkeys(names)]
    except hal.HalError as error:
        raise pytest.UsageError(f"{OPTION}: {error}") from error
    usable = [candidate.accelerator for candidate in hal.candidates() if candidate.accelerator]
    config.stash[_ACCELERATORS] = chosen or usable


def pytest_report_header(config: pytest.Config) -> list[str]:
    lines = [f"hal: {accelerator!r}" for accelerator in config.stash[_ACCELERATORS]]
    return lines + [f"hal: not {other.name}: {other.reason}" for other in hal.candidates() if other.reason]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes an `accelerator`, an `op` or a kind of case on all there are of them."""
    accelerators = metafunc.config.stash[_ACCELERATORS]
    wanted = set(metafunc.fixturenames)
    for name in wanted & set(_CASES):
        found = [case for accelerator in accelerators for case in _CASES[name](accelerator)]
        metafunc.parametrize(name, found, ids=str)
    if "accelerator" in wanted:
        metafunc.parametrize("accelerator", accelerators, ids=lambda accelerator: accelerator.name)
    if "op" in wanted:
        metafunc.parametrize("op", OPS.values(), ids=lambda op: op.name)
