"""docs/conversion.md says what `mindrl convert` takes and leaves."""

import argparse
import re
import shlex
from pathlib import Path

import pytest
from hf_models import write_model

from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore, convert_mcore_to_hf
from mindrl.cli import convert

PAGE = (Path(__file__).resolve().parents[2] / "docs/conversion.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False)
    convert.add_arguments(parser)
    return parser


def flag_rows() -> dict[str, str]:
    """Row of the table of flags, by flag."""
    table = PAGE.split("\n## Flags\n")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `--")]
    return {flag: row for row in rows for flag in re.findall(r"`(--[\w-]+)`", row.split(" | ")[0])}


def test_the_table_of_flags_has_every_flag_and_no_other(parser):
    actions = [action for action in parser._actions if action.dest != "help"]
    assert sorted(flag_rows()) == sorted(flag for action in actions for flag in action.option_strings)


def test_the_table_of_flags_names_what_each_can_be(parser):
    rows = flag_rows()
    for action in parser._actions:
        for choice in action.choices or ():
            named = f"`{choice}`" in rows[action.option_strings[0]]
            assert named or choice == "GPT", (action.option_strings, choice)


def test_every_command_of_the_page_is_understood(parser):
    blocks = "\n".join(re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
    commands = [
        line.removeprefix("mindrl convert") for line in blocks.splitlines() if "mindrl convert" in line
    ]
    assert len(commands) >= 6
    for command in commands:
        words = [word for word in shlex.split(command, comments=True) if word != "..."]
        parser.parse_args(words)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("results")
    write_model(place / "original", "qwen3_moe", tied=False, max_shard_size="120KB")
    convert_hf_to_mcore(place / "original", place / "ckpt", progress=False)
    convert_mcore_to_hf(place / "ckpt", place / "trained", progress=False, max_file_bytes=120_000)
    convert_mcore_to_hf(place / "ckpt", place / "original", progress=False)
    return place


@pytest.mark.parametrize("name", ["ckpt", "trained", "original"])
def test_the_listings_are_those_of_true_results(results, name):
    (listing,) = re.findall(rf"^```\n({name}/.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    files = sorted(str(path.relative_to(results)) for path in (results / name).rglob("*") if path.is_file())
    assert sorted(listing.splitlines()) == files
