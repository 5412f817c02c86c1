"""Starting Ray and leaving it: what is refused, and what an interruption in the middle leaves behind."""

import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from mindrl.cluster.ray_cluster import check_address
from mindrl.config.runtime import ClusterConfig
from mindrl.errors import RequestError

START = """
import sys
from pathlib import Path
import hal
from mindrl.cluster.ray_cluster import ray_cluster
from mindrl.config.runtime import ClusterConfig
with ray_cluster(ClusterConfig(), hal.choose("cpu"), Path(sys.argv[1])):
    print("started")
"""
START_SECONDS = 120
END_SECONDS = 10


def test_several_nodes_need_a_cluster_to_join(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_address(ClusterConfig(num_nodes=1))
    with pytest.raises(RequestError, match=r"num_nodes is 2, but RAY_ADDRESS is not set"):
        check_address(ClusterConfig(num_nodes=2))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_address(ClusterConfig(num_nodes=2))


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
