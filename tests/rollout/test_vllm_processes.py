"""vLLM over two processes that already share a process group: one engine of both, or one engine each."""

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from hal.devices.cpu import CpuAccelerator
from mindrl.rollout.choose import engine_environment, vllm_unavailable_reason

HERE = Path(__file__).parent
TIME_LIMIT = 400.0  # seconds; imports alone take a minute on a busy machine

pytestmark = pytest.mark.skipif(
    vllm_unavailable_reason(CpuAccelerator()) is not None,
    reason=str(vllm_unavailable_reason(CpuAccelerator())),
)


def run_two(directory: Path, **task: object) -> tuple[list[int], list[str], str]:
    """Exit codes and outputs of two ranks, and the job's identity."""
    job_id = f"mindrl-test-{uuid.uuid4().hex[:8]}"
    environment = {
        **os.environ,
        **engine_environment(CpuAccelerator()),
        "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent.parent}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    argument = json.dumps({**task, "directory": str(directory), "job_id": job_id})
    logs = [(directory / f"rank{rank}.log").open("w+") for rank in range(2)]
    ranks = [
        subprocess.Popen(
            [sys.executable, str(HERE / "vllm_rank.py"), argument],
            env=environment | {"RANK": str(rank)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        for rank, log in enumerate(logs)
    ]
    try:
        codes = [rank.wait(timeout=TIME_LIMIT) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    for log in logs:
        log.close()
    return codes, [Path(log.name).read_text() for log in logs], job_id


@pytest.mark.parametrize(
    ("tensor_parallel_size", "family", "tied"),
    [(2, "qwen2", True), (1, "llama", False), (2, "qwen3_moe", False)],
)
def test_engines_follow_the_trainers_weights(
    tmp_path: Path, tensor_parallel_size: int, family: str, tied: bool
) -> None:
    codes, outputs, _ = run_two(
        tmp_path, what="updates", tensor_parallel_size=tensor_parallel_size, family=family, tied=tied
    )
    assert codes == [0, 0], "\n".join(outputs)
    assert all(f"rank {rank} passed" in output for rank, output in enumerate(outputs))


def test_ranks_of_one_engine_that_part_ways_are_an_error_on_each(tmp_path: Path) -> None:
    codes, outputs, _ = run_two(tmp_path, what="disagree", tensor_parallel_size=2, family="qwen2", tied=True)
    assert codes == [0, 0], "\n".join(outputs)


def test_killed_processes_leave_no_shared_memory(tmp_path: Path) -> None:
    codes, outputs, job_id = run_two(
        tmp_path, what="killed", tensor_parallel_size=2, family="qwen2", tied=True
    )
    assert codes == [-signal.SIGKILL, -signal.SIGKILL], "\n".join(outputs)
    assert not [path for path in Path("/dev/shm").iterdir() if job_id in path.name]
