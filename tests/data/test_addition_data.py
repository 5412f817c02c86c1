"""The sums that SmolLM2 learns: examples/data/make_addition.py and the template of their prompts."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mindrl.data.templates import load_template

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "data" / "make_addition.py"
Pair = tuple[int, int]


def make(directory: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--output-dir", str(directory), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def rows(path: Path) -> list[tuple[Pair, int]]:
    """Digits and answer of every row."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [((int(row["prompt"][0]), int(row["prompt"][2])), int(row["answer"])) for row in found]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("addition")
    done = make(directory)
    assert done.returncode == 0, done.stderr
    return directory


def test_the_answers_are_the_sums(data: Path):
    for name in ("train", "heldout"):
        assert all(a + b == answer for (a, b), answer in rows(data / f"{name}.jsonl"))


def test_no_pair_of_digits_is_in_both_files_in_either_order(data: Path):
    train, heldout = (
        {frozenset(pair) for pair, _ in rows(data / f"{n}.jsonl")} for n in ("train", "heldout")
    )
    assert train & heldout == set()
    assert (len(train), len(heldout)) == (40, 13)


def test_the_worked_examples_of_the_template_are_in_neither_file(data: Path):
    template = load_template("addition_few_shot", ROOT / "configs/model/addition_few_shot.json")
    shown = re.findall(r"(\d) \+ (\d) = \\boxed{(\d+)}", template.prefix)
    assert [int(a) + int(b) == int(answer) for a, b, answer in shown] == [True, True]
    asked = {frozenset(pair) for name in ("train", "heldout") for pair, _ in rows(data / f"{name}.jsonl")}
    assert {frozenset((int(a), int(b))) for a, b, _ in shown} & asked == set()


def test_the_seed_decides_which_pairs_are_held_out(data: Path, tmp_path: Path):
    for seed, same in (("0", True), ("1", False)):
        make(tmp_path / seed, "--seed", seed)
        again = (tmp_path / seed / "heldout.jsonl").read_text()
        assert (again == (data / "heldout.jsonl").read_text()) == same


def test_holding_out_every_pair_is_refused(tmp_path: Path):
    done = make(tmp_path / "x", "--heldout", "53")
    assert done.returncode == 2
    assert "expected 1 to 52" in done.stderr
    assert not (tmp_path / "x").exists()
