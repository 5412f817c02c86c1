"""docs/kernels.md names every operation and every kernel that ships."""

import re
from pathlib import Path

import pytest

from hal.kernels.registry import OPS, providers

PAGE = Path(__file__).parents[2] / "docs/kernels.md"
ROWS = dict(re.findall(r"^\| `(\w+)` \| .+? \| (.+) \|$", PAGE.read_text(), re.MULTILINE))


def test_the_page_lists_the_operations() -> None:
    assert list(ROWS) == list(OPS)


@pytest.mark.parametrize("op", OPS)
def test_the_page_lists_an_operations_kernels_in_the_order_in_which_they_are_tried(op: str) -> None:
    named = re.findall(r"`(\w+)`", ROWS[op])
    assert named == [provider.name for provider in providers(op)][:-1]
