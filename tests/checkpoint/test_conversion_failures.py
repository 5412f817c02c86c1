"""Every failing conversion ends in one way: one message, nothing that looks like weights, and a way on.

The table is `conversion_failures.FAILURES`; `python tests/checkpoint/conversion_failures.py` shows it with the answers.
"""

import re
from pathlib import Path

import pytest
from conversion_failures import (
    FAILURES,
    ROOT,
    Failure,
    can_lose_privileges,
    can_mount,
    copy_of,
    go_through,
    write_sources,
)

from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore
from mindrl.errors import RequestError


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sources")
    write_sources(place)
    return place


def in_ci(failure: Failure) -> bool:
    """Where a process of its own is needed, one direction is enough: both go through the same engine."""
    return not failure.circumstance or failure.name.startswith("hf to mcore")


@pytest.mark.parametrize(
    "name",
    [
        name if in_ci(failure) else pytest.param(name, marks=pytest.mark.slow)
        for name, failure in FAILURES.items()
    ],
)
def test_a_failing_conversion_is_told_leaves_nothing_valid_and_works_once_mended(files: Path, name: str):
    failure = FAILURES[name]
    if failure.small_disk and not can_mount():
        pytest.skip("no small disk can be mounted here")
    if failure.without_privileges and not can_lose_privileges():
        pytest.skip("permissions do not bind the superuser, and there is no setpriv to change that")
    course = go_through(failure, files)
    assert course.code == failure.code, course.said
    assert [words for words in failure.said if words not in course.said] == [], course.said
    assert "Traceback" not in course.said
    assert course.looks_valid == ()
    partial = [path for path in course.left if path not in ("disk/neighbour", ".new.partial")]
    assert partial == [], "but for the files of a conversion that was killed, and goes on where it was"
    assert course.code_after == 0, course.said_after
    assert course.is_right


def test_the_page_has_every_failure():
    rows = re.findall(r"^\| ([^|`]+) \| -?\d \|.*\| as it should be \|$", page_text(), re.MULTILINE)
    command = "python tests/checkpoint/conversion_failures.py > docs/conversion-failures.md"
    assert rows == list(FAILURES), f"write it anew: {command}"


def page_text() -> str:
    return (ROOT / "docs/conversion-failures.md").read_text(encoding="utf-8")


def test_a_target_that_is_a_link_stays_one_and_what_it_leads_to_is_replaced(files: Path):
    with copy_of(files):
        Path("elsewhere").mkdir()
        Path("new").symlink_to("elsewhere/result")
        Path("elsewhere/result").mkdir()
        Path("elsewhere/.result.replaced").mkdir()
        Path("elsewhere/.result.replaced/thesis.txt").write_text("my life's work")
        with pytest.raises(RequestError, match=r"\.result\.replaced is in the way of replacing"):
            convert_hf_to_mcore(Path("hf"), Path("new"), progress=False)
        Path("elsewhere/.result.replaced").rename("elsewhere/moved")
        convert_hf_to_mcore(Path("hf"), Path("new"), progress=False)
        assert Path("new").is_symlink()
        assert {path.name for path in Path("elsewhere").iterdir()} == {"result", "moved"}
        assert Path("elsewhere/result/release/.metadata").exists()
        assert Path("elsewhere/moved/thesis.txt").exists()
