"""The reference page says what the schema says."""

from pathlib import Path

from mindrl.config import Config
from mindrl.config.names import keys
from mindrl.config.reference import page

DOCS = Path(__file__).resolve().parents[2] / "docs/configuration.md"


def test_the_committed_page_is_the_generated_one():
    assert DOCS.read_text() == page(), "run: python -m mindrl.config.reference > docs/configuration.md"


def test_every_key_has_a_meaning():
    silent = [line for line in page().splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert silent == []


def test_every_key_is_on_the_page():
    text = page()
    missing = [
        key for key in keys(Config) if f"`{key.rpartition('.')[2]}`" not in text and f"`{key}`" not in text
    ]
    assert missing == []
