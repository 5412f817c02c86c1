"""How the conformance suite is called: its option is there for it, and in nobody else's way."""

import subprocess
import sys
from pathlib import Path


def pytest_in(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=120)


def test_the_suite_is_found_from_anywhere_with_its_option(tmp_path: Path) -> None:
    done = pytest_in(tmp_path, "--pyargs", "hal.testing.test_memory", "--accelerator", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_an_accelerator_that_is_not_there_ends_the_run_with_every_reason(tmp_path: Path) -> None:
    done = pytest_in(tmp_path, "--pyargs", "hal.testing", "--accelerator", "slide_rule")
    assert done.returncode == 4
    assert "accelerator 'slide_rule' was asked for, but there is none of that name" in done.stderr
    assert "cpu: usable" in done.stderr


def test_a_suite_of_somebody_else_may_have_an_option_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "def pytest_addoption(parser): parser.addoption('--accelerator', default='mine')"
    )
    (tmp_path / "test_theirs.py").write_text(
        "import sys\n"
        "def test_theirs(pytestconfig):\n"
        "    assert pytestconfig.getoption('--accelerator') == 'theirs'\n"
        "    assert 'torch' not in sys.modules\n"
    )
    done = pytest_in(tmp_path, "--accelerator", "theirs")
    assert done.returncode == 0, done.stdout + done.stderr
