"""The benchmark of conversion runs, in tiny sizes, and says what it measured; no test looks at a time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/convert.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def report(place: Path, *arguments: str) -> Any:
    result = run("--size", "tiny", "--rounds", "2", "--directory", place, "--json", *arguments)
    assert result.returncode == 0, result.stderr
    assert list(place.iterdir()) == []
    return json.loads(result.stdout)


def assert_compared(figures: dict[str, Any]) -> None:
    assert len(figures["cp_seconds"]) == len(figures["convert_seconds"]) == 2
    assert figures["gigabytes_of_cp"] > 0
    assert figures["speed_of_cp"] > 0
    assert figures["peak_mebibytes"] > 50  # Python alone has tens of them


def test_fp8_and_the_dry_run_are_measured(tmp_path):
    found = report(tmp_path, "fp8", "fused", "dry-run")
    assert found["fp8"]["gigabytes_per_second_and_thread"] > 0
    assert_compared(found["fused"])
    assert found["dry-run"]["complete"] is False
    assert found["dry-run"]["seconds"] > 0


@pytest.mark.slow
def test_both_ways_of_a_model_are_measured_and_the_memory_of_a_quarter_of_it(tmp_path):
    found = report(tmp_path, "bf16")["bf16"]
    for way in ("hf_to_mcore", "mcore_to_hf"):
        assert_compared(found[way])
    assert found["peak_mebibytes_of_a_quarter"] > 50


def test_a_case_that_does_not_exist_is_refused_by_name():
    result = run("bf16", "fp9")
    assert result.returncode == 2
    assert "no case fp9; there are bf16, fp8, fused, dry-run" in result.stderr
