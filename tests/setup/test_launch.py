"""examples/grpo/_launch.sh and quickstart.sh: what they refuse before anything is started, and how they judge."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
SUMMARY = ROOT / "examples/grpo/run_verdict.py"
MODEL_CONFIGS = {
    "qwen3_30b_a3b": "configs/model/qwen3-30b-a3b/config.json",
    "moonlight_16b_a3b": "configs/model/moonlight-16b-a3b/config.json",
}
LEARNED = {
    "reward_first": 0.1, "reward_last": 0.9, "eval_before": 0.1, "eval_after": 0.97, "steps": 150, "seconds": 100.0,
    "tokens_per_second": 900.0, "max_logprob_gap": 4e-6, "device": "cpu", "world_size": 2,
}  # fmt: skip


def ended(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return subprocess.run(
        command,
        env={**os.environ, "PATH": path, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"DEFAULT_YAML": ""}, "DEFAULT_YAML is not set"),
        ({"NNODES": "2"}, "MASTER_ADDR is not set"),
        ({"CURRENT_IP": "127.9.9.9"}, "not an address of this machine"),
    ],
    ids=["DEFAULT_YAML", "NNODES", "CURRENT_IP"],
)
def test_a_launch_that_cannot_be_meant_is_refused(environment: Mapping[str, str], reason: str) -> None:
    """A few through the script; tests/cluster/test_launch_part.py has the others."""
    result = ended(
        "bash",
        "examples/grpo/_launch.sh",
        **({"DEFAULT_YAML": "configs/grpo_quickstart.yaml"} | dict(environment)),
    )
    assert result.returncode == 2
    assert reason in result.stderr
    assert "Traceback" not in result.stderr


def test_a_port_that_another_process_has_is_named_with_the_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = ended(
            "bash", "examples/grpo/_launch.sh", DEFAULT_YAML="grpo_quickstart", MASTER_PORT=str(port)
        )
    assert result.returncode == 2
    assert f"MASTER_PORT {port} on 127.0.0.1 is in use by" in result.stderr
    assert f"(process {os.getpid()})" in result.stderr


@pytest.mark.parametrize("script", ["qwen3_30b_a3b", "moonlight_16b_a3b"])
def test_a_recipe_of_a_model_with_experts_says_before_ray_starts_which_data_to_write(
    script: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text((ROOT / MODEL_CONFIGS[script]).read_text())
    result = ended(
        "bash", f"examples/grpo/grpo_trainer_{script}.sh", f"model.path={tmp_path}",
        "actor.tensor_model_parallel_size=1", "actor.sequence_parallel=false", "actor.expert_model_parallel_size=1",
        "rollout.tensor_parallel_size=1",
    )  # fmt: skip
    assert result.returncode == 2
    assert "is not there; write it with `mindrl preprocess`" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_misspelt_key_ends_the_launch_before_ray_is_started() -> None:
    result = ended(
        "bash",
        "examples/grpo/_launch.sh",
        "actor.optimiser.lr=1",
        DEFAULT_YAML="configs/grpo_quickstart.yaml",
    )
    assert result.returncode == 2
    assert "optimizer" in result.stderr


def test_an_interruption_while_the_request_is_checked_ends_the_launch_at_once() -> None:
    environment = os.environ | {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "DEFAULT_YAML": "configs/grpo_quickstart.yaml",
    }
    launch = subprocess.Popen(
        ["bash", "examples/grpo/_launch.sh"], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    check = first_descendant(launch.pid, "--check")
    launch.send_signal(signal.SIGINT)  # to the script alone, as a script that calls it would
    _, said = launch.communicate(timeout=10)
    assert launch.returncode == 130, said
    _, alive = psutil.wait_procs([check], timeout=5)
    assert not alive


def first_descendant(pid: int, argument: str) -> psutil.Process:
    """The first process under `pid` that was given `argument`."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                command = child.cmdline()
                if argument in command and "mindrl" in " ".join(command):
                    return child
        time.sleep(0.02)
    raise AssertionError(f"no process with {argument}")


@pytest.mark.parametrize("argument", ["trainer.output_dir=outputs/elsewhere", "--overwrite"])
def test_the_quick_start_refuses_what_would_lead_it_elsewhere(argument: str) -> None:
    assert ended("bash", "examples/grpo/quickstart.sh", argument).returncode == 2


def test_a_misspelt_key_is_found_before_results_are_replaced() -> None:
    result = ended(
        sys.executable, str(SUMMARY), "check", "configs/grpo_quickstart.yaml", "actor.optimiser.lr=1"
    )
    assert result.returncode == 2
    assert "optimizer" in result.stderr


def test_the_evaluation_is_put_into_the_summary(tmp_path: Path) -> None:
    trained = {key: value for key, value in LEARNED.items() if not key.startswith("eval")}
    (tmp_path / "summary.json").write_text(json.dumps(trained))
    results = [{"model": name, "overall": {"pass_at_1": value}} for name, value in (("a", 0.1), ("b", 0.97))]
    (tmp_path / "eval.json").write_text(json.dumps({"results": results}))
    assert ended(sys.executable, str(SUMMARY), "merge", str(tmp_path)).returncode == 0
    assert json.loads((tmp_path / "summary.json").read_text()) == LEARNED


def test_a_run_that_learned_ends_with_0(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(LEARNED))
    result = ended(sys.executable, str(SUMMARY), "judge", str(tmp_path), "sorting")
    assert result.returncode == 0
    assert "it learned" in result.stdout


@pytest.mark.parametrize(
    "change",
    [{"reward_first": 0.21}, {"reward_last": 0.6}, {"eval_after": 0.89}, {"eval_before": 0.8}],
    ids=str,
)
def test_a_run_that_missed_one_bar_ends_with_1_and_says_which(
    tmp_path: Path, change: dict[str, float]
) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(LEARNED | change))
    result = ended(sys.executable, str(SUMMARY), "judge", str(tmp_path), "sorting")
    assert result.returncode == 1
    assert result.stdout.count("not met:") == 1
