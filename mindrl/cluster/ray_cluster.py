"""Joining or starting Ray, waiting for its nodes, and leaving it as it was found."""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import psutil
import ray

import hal
from mindrl.cluster.authentication import ADDRESS
from mindrl.config.runtime import ClusterConfig
from mindrl.errors import RequestError

INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a run that was interrupted."""
KILL_SECONDS = 2.0
OBJECT_STORE_BYTES = 256 * 2**20
"""For a cluster we start ourselves; samples of a step are small, weights never pass through it."""


@contextmanager
def ray_cluster(cluster: ClusterConfig, accelerator: hal.Accelerator, log_dir: Path) -> Iterator[None]:
    """A connection to Ray with enough devices for the run.

    Joins the cluster at RAY_ADDRESS where that is set (launch scripts start one), else starts one on this machine
    and stops it at the end. Raises `RequestError` when the devices do not show up in time. Where the run fails,
    what this node's workers printed is kept in `log_dir`.
    """
    # Socket paths end at 107 bytes, so the session lives in a short directory of its own.
    temp_dir = None if os.environ.get(ADDRESS) else tempfile.mkdtemp(prefix="mindrl-ray-", dir="/tmp")
    try:
        _connect(cluster, accelerator, temp_dir)
        try:
            _wait_for_devices(cluster, accelerator)
            yield
        except Exception:
            _keep_logs(log_dir)
            raise
    finally:
        with _deaf_to_interrupts():
            ray.shutdown()
            if temp_dir is not None:
                shutil.rmtree(temp_dir, ignore_errors=True)


def check_address(cluster: ClusterConfig) -> None:
    """`RequestError` for a run over several nodes without a cluster to join."""
    if cluster.num_nodes > 1 and not os.environ.get(ADDRESS):
        raise RequestError(
            f"cluster.num_nodes is {cluster.num_nodes}, but {ADDRESS} is not set, so there is no cluster to join. Start "
            "the run on every node with a script of examples/grpo, which starts Ray first."
        )


def _connect(cluster: ClusterConfig, accelerator: hal.Accelerator, temp_dir: str | None) -> None:
    """Join the cluster at RAY_ADDRESS, or start one in `temp_dir`."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    on_termination = signal.getsignal(signal.SIGTERM)
    try:
        if temp_dir is None:
            ray.init(address=os.environ[ADDRESS], **quiet)
        else:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a run asks the network for nothing
            ray.init(
                **_local_resources(cluster, accelerator),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=temp_dir,
                **quiet,
            )
    except (KeyboardInterrupt, SystemExit):  # the latter is Ray's own answer to SIGTERM
        _abandon(temp_dir)
    signal.signal(signal.SIGTERM, on_termination)  # Ray has put its own handler there


def _abandon(temp_dir: str | None) -> NoReturn:
    """End this process at once. Half a start of Ray can't be undone, and crashes the interpreter when it ends."""
    with _deaf_to_interrupts():
        children = psutil.Process().children(recursive=True)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, timeout=KILL_SECONDS)
        if temp_dir is not None:
            shutil.rmtree(temp_dir, ignore_errors=True)
        print("interrupted while Ray started", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let a second Ctrl-C not break off what the first one has begun."""
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(each, signal.SIG_IGN) for each in signals]
    try:
        yield
    finally:
        for each, handler in zip(signals, previous, strict=True):
            signal.signal(each, handler)


def _keep_logs(log_dir: Path) -> None:
    """Copy what the workers of this node printed, before the session's directory goes."""
    log_dir.mkdir(parents=True, exist_ok=True)
    node = ray._private.worker.global_worker.node  # Ray has no public name for its logs directory
    job = ray.get_runtime_context().get_job_id()  # other jobs may share the cluster
    for path in Path(node.get_logs_dir_path()).glob(f"worker-*-{job}-*"):
        if path.stat().st_size:
            shutil.copyfile(path, log_dir / path.name)


def _local_resources(cluster: ClusterConfig, accelerator: hal.Accelerator) -> dict[str, object]:
    """Arguments of `ray.init` that declare this machine's devices."""
    devices = cluster.devices_per_node
    return {"num_cpus": max(devices, os.cpu_count() or 1)} | accelerator.ray_arguments(devices)


def _wait_for_devices(cluster: ClusterConfig, accelerator: hal.Accelerator) -> None:
    wanted = cluster.world_size
    deadline = time.monotonic() + cluster.join_timeout_seconds
    while True:
        found = ray.cluster_resources().get(accelerator.ray_resource, 0)
        nodes = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
        if found >= wanted and len(nodes) >= cluster.num_nodes:
            return
        if time.monotonic() > deadline:
            raise RequestError(
                f"The run needs {wanted} {accelerator.ray_resource} on {cluster.num_nodes} node(s); after "
                f"{cluster.join_timeout_seconds:g} s (cluster.join_timeout_seconds) Ray has {found:g} on "
                f"{len(nodes)} node(s): {', '.join(sorted(nodes))}. Check that the launch script runs on every node "
                "with the same MASTER_ADDR, and NNODES and NPUS_PER_NODE."
            )
        time.sleep(0.5)
