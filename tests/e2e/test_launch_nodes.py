"""The real launch script, as one node and as two: two network namespaces stand for two machines."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from real_runs import ENVIRONMENT, QUICKSTART, ROOT, Files

STEPS = 2
RUN_SECONDS = 240
SECOND_NODE_SECONDS = 10
"""The second node may take so long to end after the first."""
JOIN_SECONDS = 6


@dataclass(frozen=True)
class Machine:
    """A network namespace with an address of its own, on a bridge with the other."""

    namespace: str
    address: str

    def launch(self, head: str, log: Path, *overrides: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start the launch script here, as a user would on a node of its own."""
        environment = ENVIRONMENT | {
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
            "DEFAULT_YAML": str(QUICKSTART),
            "NNODES": "2",
            "NPUS_PER_NODE": "1",
            "MASTER_ADDR": head,
            "RAY_AUTH_TOKEN": "ab" * 32,
            **variables,
        }
        with log.open("w") as output:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, "bash", "examples/grpo/_launch.sh", *overrides],
                cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Machine, Machine]]:
    """Two machines on one network."""
    mark = f"mr{os.getpid()}"
    switch, nodes = f"{mark}s", [Machine(f"{mark}n{n}", f"10.200.0.{n}") for n in (1, 2)]
    made: list[str] = []
    try:
        try:
            for namespace in (switch, *(node.namespace for node in nodes)):
                ip("netns", "add", namespace)
                made.append(namespace)
            ip("-n", switch, "link", "add", "br0", "type", "bridge")
            ip("-n", switch, "link", "set", "br0", "up")
            for number, node in enumerate(nodes):
                here, port = node.namespace, f"port{number}"
                ip("link", "add", "v0", "netns", here, "type", "veth", "peer", "name", port, "netns", switch)
                ip("-n", switch, "link", "set", port, "master", "br0", "up")
                ip("-n", here, "addr", "add", f"{node.address}/24", "dev", "v0")
                ip("-n", here, "link", "set", "v0", "up")
                ip("-n", here, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", "") or error
            pytest.skip(f"network namespaces are not allowed here: {said}")
        yield nodes[0], nodes[1]
    finally:
        for namespace in made:
            ip("netns", "delete", namespace)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a launch that is still there, and wait for its end."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)


def short_run(files: Files, output: Path) -> list[str]:
    return [*files.overrides(files.tied), f"trainer.total_steps={STEPS}", f"trainer.output_dir={output}"]


def steps_written(output: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_one_node_trains_without_being_told_anything_but_its_configuration(files: Files, tmp_path: Path):
    done = subprocess.run(
        ["bash", "examples/grpo/_launch.sh", "grpo_quickstart", *short_run(files, tmp_path / "run")],
        cwd=ROOT,
        env=ENVIRONMENT | {"PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))},
        capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert steps_written(tmp_path / "run") == list(range(1, STEPS + 1))
    assert json.loads((tmp_path / "run/summary.json").read_text())["world_size"] == 1


def test_two_nodes_train_together_and_the_second_ends_when_the_first_does(
    machines: tuple[Machine, Machine], files: Files, tmp_path: Path
):
    first, second = machines
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    arguments = short_run(files, tmp_path / "run")
    launches = [
        second.launch(first.address, logs[1], *arguments),
        first.launch(first.address, logs[0], *arguments),
    ]
    try:
        assert launches[1].wait(timeout=RUN_SECONDS) == 0, logs[0].read_text()
        started = psutil.Process(launches[0].pid).children(recursive=True)
        assert launches[0].wait(timeout=SECOND_NODE_SECONDS) == 0, logs[1].read_text()
    finally:
        for launch in launches:
            end(launch)
    assert not psutil.wait_procs(started, timeout=5)[1]
    assert steps_written(tmp_path / "run") == list(range(1, STEPS + 1))
    assert json.loads((tmp_path / "run/summary.json").read_text())["world_size"] == 2
    said = logs[0].read_text()
    for node, count in ((first, 1), (second, 2)):
        assert f"node {node.address} has joined with 1 CPU ({count} of 2)" in said
    assert "the first node has ended the run" in logs[1].read_text()


def test_a_first_node_waits_within_the_limit_and_says_who_has_come(
    machines: tuple[Machine, Machine], files: Files, tmp_path: Path
):
    first, _ = machines
    log, output = tmp_path / "first.log", tmp_path / "run"
    launch = first.launch(first.address, log, *short_run(files, output), JOIN_TIMEOUT=str(JOIN_SECONDS))
    try:
        assert launch.wait(timeout=RUN_SECONDS) == 2, log.read_text()
    finally:
        end(launch)
    said = log.read_text()
    assert (
        f"after {JOIN_SECONDS} s (cluster.join_timeout_seconds) 1 of 2 node(s) have joined, 1 missing" in said
    )
    assert f"Here: {first.address} with 1 CPU" in said
    assert "Traceback" not in said
    assert not output.exists()


def test_a_node_with_a_wrong_first_address_says_so_within_a_minute(
    machines: tuple[Machine, Machine], files: Files, tmp_path: Path
):
    _, second = machines
    log, started = tmp_path / "second.log", time.monotonic()
    launch = second.launch(
        "10.200.0.77", log, *short_run(files, tmp_path / "run"), JOIN_TIMEOUT=str(JOIN_SECONDS)
    )
    try:
        assert launch.wait(timeout=60) == 2, log.read_text()
    finally:
        end(launch)
    assert time.monotonic() - started < 60
    assert "gave up on the first node at 10.200.0.77:6379" in log.read_text()
    assert "no route to host" in log.read_text()
