"""The environment every worker process starts with."""

import os
from collections.abc import Mapping
from pathlib import Path

import hal
from mindrl.config.runtime import ClusterConfig


def worker_environment(
    cluster: ClusterConfig, accelerator: hal.Accelerator, engine: Mapping[str, str]
) -> dict[str, str]:
    """Environment variables of a worker, later ones winning.

    The device's defaults, what the rollout engine needs (`engine`), no network for the model hub, the interface that CURRENT_IP
    lies on, and last the user's own `cluster.env`.
    """
    environment = {
        **accelerator.environment_defaults(processes_per_node=cluster.devices_per_node),
        **engine,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": _python_path(os.environ),
    }
    interface = os.environ.get("MINDRL_INTERFACE")
    if interface:
        environment |= accelerator.interface_environment(interface)
    return environment | dict(cluster.env)


def _python_path(environ: Mapping[str, str]) -> str:
    """This checkout first, so that workers run the same code as the driver wherever they start."""
    checkout = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(part for part in (checkout, environ.get("PYTHONPATH", "")) if part)
