"""What a launch script must tell Ray about a node's devices."""

import json

from hal.accelerator import Accelerator
from hal.errors import UnavailableError

_RAY_OPTIONS = {"CPU": "--num-cpus", "GPU": "--num-gpus"}
"""Resources for which `ray start` has an option; all others go by `--resources`."""


def ray_start_arguments(accelerator: Accelerator, num_devices: int) -> list[str]:
    """Arguments of `ray start` that offer `num_devices` devices of this node, one worker process each.

    The host is one device, which any number of workers share. Raises `UnavailableError` if the node has fewer."""
    if num_devices < 1:
        raise UnavailableError(f"{num_devices} devices were asked for; a node takes part with at least one")
    found = accelerator.device_count()
    if accelerator.device_type != "cpu" and found < num_devices:
        seen_by = accelerator.visible_devices_variable
        raise UnavailableError(
            f"{num_devices} devices of kind {accelerator.name} were asked for on this node, and this process sees "
            f"{found}; ask for that many, or look at {seen_by}"
        )
    option = _RAY_OPTIONS.get(accelerator.ray_resource)
    if option is not None:
        return [f"{option}={num_devices}"]
    return ["--resources=" + json.dumps({accelerator.ray_resource: num_devices})]
