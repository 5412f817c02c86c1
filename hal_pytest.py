"""Lets `pytest --pyargs hal.testing --accelerator NAME` know its option.

pytest reads the conftest.py of a package that is named by `--pyargs` after it has parsed the command line: too late for
an option. This plug-in, which pytest finds by its entry point, names the folder in time. It stands outside of `hal`
and does nothing for other test suites, so that these neither wait for torch nor meet the option.
"""

import importlib.util
from pathlib import Path

import pytest

SUITE = "hal.testing"


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Have the suite's conftest.py loaded where the suite is asked for."""
    options = early_config.known_args_namespace
    if not options.pyargs or not any(_is_suite(name) for name in options.file_or_dir):
        return
    found = importlib.util.find_spec("hal")  # of the package above: looking for hal.testing would import hal
    assert found is not None
    assert found.origin is not None
    options.file_or_dir = [*options.file_or_dir, str(Path(found.origin).parent / "testing")]


def _is_suite(name: str) -> bool:
    module = name.partition("::")[0]
    return module == SUITE or module.startswith(f"{SUITE}.")
