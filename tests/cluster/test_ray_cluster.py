"""Starting Ray and leaving it: what is refused, and what an interruption in the middle leaves behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from mindrl.cluster import ray_cluster
from mindrl.cluster.ports import free_port, greets_as_ray
from mindrl.cluster.ray_cluster import check_address
from mindrl.config.runtime import ClusterConfig
from mindrl.errors import RequestError

START = """
import sys
from pathlib import Path
import hal
from mindrl.cluster.ray_cluster import ray_cluster
from mindrl.config.runtime import ClusterConfig
with ray_cluster(ClusterConfig(), hal.choose("cpu"), Path(sys.argv[1]), print):
    print("started")
"""
START_SECONDS = 120
END_SECONDS = 10


def test_several_nodes_need_a_cluster_to_join(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_address(ClusterConfig(num_nodes=1))
    with pytest.raises(RequestError, match=r"num_nodes is 2, but RAY_ADDRESS is not set"):
        check_address(ClusterConfig(num_nodes=2))


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("auto", "expected host:port"),
        ("ray://10.0.0.1:10001", "expected host:port"),
        ("127.0.0.1:9", "there is none to be reached: connection refused"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, address: str, reason: str
):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(RequestError, match=reason):
        check_address(ClusterConfig())


def test_what_is_no_ray_is_not_joined(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(ray_cluster, "REACH_SECONDS", 0.5)
        with pytest.raises(RequestError, match="what listens there is no Ray"):
            check_address(ClusterConfig())


def test_a_ray_with_other_resources_is_refused_at_once_and_left_running(tmp_path: Path):
    """As a user has one running for something else."""
    ray = str(Path(sys.executable).parent / "ray")
    port = free_port("127.0.0.1")
    with tempfile.TemporaryDirectory(prefix="mr-", dir="/tmp") as short:
        command = [
            ray, "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=1",
            "--include-dashboard=false", "--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={short}",
        ]  # fmt: skip
        environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        theirs = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while not greets_as_ray("127.0.0.1", port, 1):
                assert time.monotonic() < deadline
                assert theirs.poll() is None
                time.sleep(0.2)
            done = subprocess.run(
                [sys.executable, "-c", START.replace("ClusterConfig()", "ClusterConfig(devices_per_node=3)"), tmp_path],
                env=environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"},
                capture_output=True, text=True, timeout=START_SECONDS, check=False,
            )  # fmt: skip
            refusal = r"the run needs 3 CPU on each of 1 node\(s\), and this Ray has [\d.]+ with 1 CPU"
            assert re.search(refusal, done.stderr), done.stderr
            assert theirs.poll() is None
        finally:
            theirs.terminate()
            theirs.wait(timeout=30)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "TERM"])
def test_an_interruption_while_ray_starts_leaves_no_process_and_no_directory(
    tmp_path: Path, stop: signal.Signals
):
    command = [sys.executable, "-c", START, str(tmp_path)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        directory, children = first_of_ray(run)
        run.send_signal(stop)
        output, _ = run.communicate(timeout=END_SECONDS)
    finally:
        run.kill()
    assert run.returncode == 130, output
    assert "started" not in output.splitlines()
    assert not directory.exists()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


def first_of_ray(run: subprocess.Popen[str]) -> tuple[Path, list[psutil.Process]]:
    """The session's directory and Ray's processes, as soon as there is one."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        children = psutil.Process(run.pid).children(recursive=True)
        for child in children:
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                found = re.search(r"/tmp/mindrl-ray-\w+", " ".join(child.cmdline()))
                if found:
                    return Path(found.group()), children
        time.sleep(0.02)
    raise AssertionError(f"Ray started no process within {START_SECONDS} s")
