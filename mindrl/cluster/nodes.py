"""Waiting for the nodes of a run, and saying who has come."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ray

from mindrl.config.runtime import ClusterConfig
from mindrl.errors import RequestError

SETTLE_SECONDS = 5.0
"""How long a cluster of enough nodes may still lack devices: a node's devices come with it, or not at all."""
POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Node:
    """A machine that has joined Ray."""

    address: str
    devices: int
    """What it offers of the run's kind of device."""


def wait_for_devices(cluster: ClusterConfig, resource: str, announce: Callable[[str], None]) -> None:
    """Return when enough nodes with enough devices are there; say so as each joins, where several are awaited.

    `RequestError` when `cluster.join_timeout_seconds` have passed, or when all nodes are there and lack devices."""
    started = time.monotonic()
    come: list[Node] = []
    complete_since: float | None = None
    while True:
        nodes = _alive(resource)
        for node in nodes:
            if cluster.num_nodes > 1 and node.address not in {other.address for other in come}:
                count = len(come) + 1
                announce(
                    f"node {node.address} has joined with {node.devices} {resource} ({count} of {cluster.num_nodes})"
                )
                come.append(node)
        if len(_usable(nodes, cluster)) >= cluster.num_nodes:
            return
        now = time.monotonic()
        complete = len(nodes) >= cluster.num_nodes
        complete_since = (complete_since or now) if complete else None
        if complete_since is not None and now - complete_since > SETTLE_SECONDS:
            raise RequestError(short_of_devices(cluster, resource, nodes))
        if now - started > cluster.join_timeout_seconds:
            raise RequestError(short_of_nodes(cluster, resource, nodes))
        time.sleep(POLL_SECONDS)


def short_of_nodes(cluster: ClusterConfig, resource: str, nodes: Sequence[Node]) -> str:
    """What is said when the limit has passed."""
    missing = cluster.num_nodes - len(nodes)
    return (
        f"after {cluster.join_timeout_seconds:g} s (cluster.join_timeout_seconds) {len(nodes)} of {cluster.num_nodes} "
        f"node(s) have joined, {missing} missing. Here: {_list(nodes, resource)}. Start the same script on every node, "
        "with the same MASTER_ADDR, MASTER_PORT, NNODES and NPUS_PER_NODE; a node that can't reach this one says so."
    )


def short_of_devices(cluster: ClusterConfig, resource: str, nodes: Sequence[Node]) -> str:
    """What is said when the nodes are there and their devices are not."""
    return (
        f"the run needs {cluster.devices_per_node} {resource} on each of {cluster.num_nodes} node(s), and this Ray has "
        f"{_list(nodes, resource)}. Ask for what is there: NPUS_PER_NODE, the same on every node, or "
        "cluster.devices_per_node. Without RAY_ADDRESS, `mindrl train` starts a Ray with what the run needs."
    )


def _alive(resource: str) -> list[Node]:
    return [
        Node(node["NodeManagerAddress"], int(node["Resources"].get(resource, 0)))
        for node in ray.nodes()
        if node["Alive"]
    ]


def _usable(nodes: Sequence[Node], cluster: ClusterConfig) -> list[Node]:
    return [node for node in nodes if node.devices >= cluster.devices_per_node]


def _list(nodes: Sequence[Node], resource: str) -> str:
    return ", ".join(f"{node.address} with {node.devices} {resource}" for node in nodes) or "no node"
