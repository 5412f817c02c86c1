"""What hal asks of the abacus. torch knows no such device, so its tensors are the host's."""

import os
from typing import Any

import torch

import hal
from hal.devices.cpu import CpuAccelerator

BEADS = "ABACUS_BEADS"
"""Environment variable: how many beads there are; without any there is no abacus."""


class Abacus(CpuAccelerator):
    name = "abacus"
    ray_resource = "ABACUS"
    visible_devices_variable = "ABACUS_VISIBLE_DEVICES"

    def description(self) -> str:
        return f"an abacus of {os.environ[BEADS]} beads"

    def ray_arguments(self, count: int) -> dict[str, Any]:
        return {"resources": {self.ray_resource: count}}

    def supports_dtype(self, dtype: torch.dtype) -> str | None:
        if dtype == torch.float16:
            return "an abacus has too few beads for torch.float16; use torch.float32"
        return super().supports_dtype(dtype)

    def environment_defaults(self, processes_per_node: int | None = None) -> dict[str, str]:
        return {**super().environment_defaults(processes_per_node), "ABACUS_OILED": "1"}


def find() -> Abacus:
    if not os.environ.get(BEADS):
        raise hal.UnavailableError(
            f"no abacus is connected: {BEADS} is not set; set it to the number of beads"
        )
    return Abacus()
