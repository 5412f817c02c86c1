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

    The device's defaults, the same variables where the user has set them for this command, what the rollout engine
    needs (`engine`), no network for the model hub, and last the user's own `cluster.env`.
    """
    defaults = accelerator.environment_defaults(processes_per_node=cluster.devices_per_node)
    return {
        **{name: os.environ.get(name, value) for name, value in defaults.items()},
        **engine,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": _python_path(os.environ),
        **cluster.env,
    }


def use_interface_of_launch(accelerator: hal.Accelerator) -> None:
    """Have collectives use the interface that CURRENT_IP lies on; call it in a worker, before any process group.

    Launch scripts find the interface on each node, for its name differs from node to node. What is set already,
    by the user or by `cluster.env`, stays."""
    interface = os.environ.get("MINDRL_INTERFACE")
    if interface:
        for name, value in accelerator.interface_environment(interface).items():
            os.environ.setdefault(name, value)


def _python_path(environ: Mapping[str, str]) -> str:
    """This checkout first, so that workers run the same code as the driver wherever they start."""
    checkout = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(part for part in (checkout, environ.get("PYTHONPATH", "")) if part)
