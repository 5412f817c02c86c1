"""Joining or starting Ray, waiting for its nodes, and leaving it as it was found."""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import psutil
import ray

import hal
from mindrl.cluster.authentication import ADDRESS
from mindrl.cluster.nodes import wait_for_devices
from mindrl.cluster.ports import connection_error, greets_as_ray, in_words
from mindrl.config.runtime import ClusterConfig
from mindrl.errors import RequestError

INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a run that was interrupted."""
KILL_SECONDS = 2.0
REACH_SECONDS = 5.0
"""For one attempt to reach a cluster that is said to be there."""
OBJECT_STORE_BYTES = 256 * 2**20
"""For a cluster we start ourselves; samples of a step are small, weights never pass through it."""


@contextmanager
def ray_cluster(
    cluster: ClusterConfig, accelerator: hal.Accelerator, log_dir: Path, announce: Callable[[str], None]
) -> Iterator[None]:
    """A connection to Ray with enough devices for the run.

    Joins the cluster at RAY_ADDRESS where that is set (launch scripts start one), else starts one on this machine
    and stops it at the end. `announce` is told of every node that joins a run over several. Raises `RequestError`
    when the devices are not there or do not show up in time. Where the run fails, what this node's workers printed
    is kept in `log_dir`.
    """
    # Socket paths end at 107 bytes, so the session lives in a short directory of its own.
    temp_dir = None if os.environ.get(ADDRESS) else tempfile.mkdtemp(prefix="mindrl-ray-", dir="/tmp")
    try:
        _connect(cluster, accelerator, temp_dir)
        wait_for_devices(cluster, accelerator.ray_resource, announce)
        try:
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
    """`RequestError` for several nodes without a cluster to join, and for a cluster that can't be reached."""
    address = os.environ.get(ADDRESS)
    if not address:
        if cluster.num_nodes > 1:
            raise RequestError(
                f"cluster.num_nodes is {cluster.num_nodes}, but {ADDRESS} is not set, so there is no cluster to join. "
                "Start the run on every node with a script of examples/grpo, which starts Ray first."
            )
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdigit():
        raise RequestError(
            f"{ADDRESS} is {address!r}, expected host:port of the Ray to join, such as 10.0.0.1:6379. Unset it to have "
            "a Ray started for this run."
        )
    if error := connection_error(host, int(port), REACH_SECONDS):
        raise RequestError(
            f"{ADDRESS} names a Ray at {address}, and there is none to be reached: {in_words(error)}. Correct it, start that "
            "Ray, or unset it to have one started for this run."
        )
    if not greets_as_ray(host, int(port), REACH_SECONDS):
        raise RequestError(
            f"{ADDRESS} is {address}, and what listens there is no Ray. Correct it, or unset it to have a Ray started "
            "for this run."
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
