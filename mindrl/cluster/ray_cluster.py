"""Joining or starting Ray, waiting for its nodes, and leaving it as it was found."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

import hal
from mindrl.config.runtime import ClusterConfig
from mindrl.errors import RequestError

OBJECT_STORE_BYTES = 256 * 2**20
"""For a cluster we start ourselves; samples of a step are small, weights never pass through it."""


@contextmanager
def ray_cluster(cluster: ClusterConfig, accelerator: hal.Accelerator, log_dir: Path) -> Iterator[None]:
    """A connection to Ray with enough devices for the run.

    Joins the cluster at RAY_ADDRESS where that is set (launch scripts start one), else starts one on this machine
    and stops it at the end. Raises `RequestError` when the devices do not show up in time. Where the run fails,
    what this node's workers printed is kept in `log_dir`.
    """
    address = os.environ.get("RAY_ADDRESS")
    temp_dir: str | None = None
    if address:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    else:
        if cluster.num_nodes > 1:
            raise RequestError(
                f"cluster.num_nodes is {cluster.num_nodes}, but RAY_ADDRESS is not set, so there is no cluster to "
                "join. Start the run on every node with a script of examples/grpo, which starts Ray first."
            )
        # Socket paths end at 107 bytes, so the session lives in a short directory of its own.
        temp_dir = tempfile.mkdtemp(prefix="mindrl-ray-", dir="/tmp")
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        ray.init(
            **_local_resources(cluster, accelerator),
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=temp_dir,
        )
    try:
        _wait_for_devices(cluster, accelerator)
        yield
    except Exception:
        _keep_logs(log_dir)
        raise
    finally:
        ray.shutdown()
        if temp_dir is not None:
            shutil.rmtree(temp_dir, ignore_errors=True)


def _keep_logs(log_dir: Path) -> None:
    """Copy what the workers of this node printed, before the session's directory goes."""
    log_dir.mkdir(parents=True, exist_ok=True)
    node = ray._private.worker.global_worker.node  # Ray has no public name for its logs directory
    for path in Path(node.get_logs_dir_path()).glob("worker-*"):
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
