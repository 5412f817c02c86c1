"""The benchmarks of kernels run, in tiny sizes, and say what they measured; no test looks at a time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hal.kernels.registry import OPS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def report(script: str, *arguments: str) -> Any:
    command = [sys.executable, str(BENCHMARKS / script), "--json", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_every_op_is_measured_with_every_provider_that_serves_beside_the_machines_ceilings() -> None:
    found = report("kernels.py", "--accelerator", "cpu", "--size", "tiny", "--rounds", "2", "--threads", "1")
    assert {workload["op"] for workload in found["workloads"]} == set(OPS)
    assert found["ceilings"]["flops_per_second"] > 0
    for workload in found["workloads"]:
        assert "reference" in workload["providers"]
        assert workload["selected"] in workload["providers"]
        assert workload["best"] in workload["providers"]
        for times in workload["providers"].values():
            assert times["both_ms"] > 0
            assert times["both_of_ceiling"] > 0
        passes = {"forward_ms", "backward_ms"} & set(workload["providers"]["reference"])
        assert len(passes) == {"token_loss": 0, "adamw": 1}.get(workload["op"], 2)


def test_an_op_without_a_workload_is_refused_by_name() -> None:
    command = [sys.executable, str(BENCHMARKS / "kernels.py"), "--ops", "swiglu,atention"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 2
    assert "no workload for atention" in result.stderr


@pytest.mark.parametrize("loss", ["both", "log_probs"])
def test_log_probs_are_measured_beside_the_naive_path_and_take_a_fraction_of_its_memory(loss: str) -> None:
    found = report(
        "log_probs.py",
        *("--tokens", "1024", "--hidden", "16", "--vocab", "20000", "--chunk-size", "32"),
        *("--rounds", "2", "--threads", "1", "--loss", loss),
    )
    assert list(found["paths"]) == ["naive", "token_log_probs", "token_loss"]
    for path in found["paths"].values():
        assert path["seconds"]["forward_backward"] > 0
    assert all(ratio == 1 for ratio in found["paths"]["naive"]["of_naive"].values())
    # Logits are 82 MB, and the naive path keeps at least two of them.
    naive = found["paths"]["naive"]["extra_bytes"]["forward_backward"]
    assert naive > 160e6
    for path in ("token_log_probs", "token_loss"):
        assert found["paths"][path]["extra_bytes"]["forward_backward"] < naive / 5
