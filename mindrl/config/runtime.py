"""Where a run takes place: the device (`hal`) and the machines (`cluster`)."""

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from mindrl.config.base import Section

EnvironmentName = Annotated[str, Field(pattern="^[A-Za-z_][A-Za-z0-9_]*$")]
EnvironmentValue = Annotated[str, Field(coerce_numbers_to_str=True)]


class HalConfig(Section):
    """The device, and the kernels chosen on it."""

    accelerator: str = "auto"
    """Name of an accelerator that `python -m hal` lists, or `auto` for the first usable one."""
    kernels: dict[str, str] = Field(default_factory=dict)
    """Provider per operation, such as `{attention: torch_sdpa}`; operations left out are chosen automatically."""
    deterministic: bool = True
    """Ask the device for deterministic algorithms, so that two runs with one seed agree."""


class ClusterConfig(Section):
    """Machines, worker processes and their environment."""

    num_nodes: PositiveInt = 1
    """Machines in the run; launch scripts set it from NNODES."""
    devices_per_node: PositiveInt = 1
    """Worker processes (one device each) per machine; launch scripts set it from NPUS_PER_NODE."""
    join_timeout_seconds: PositiveFloat = 300.0
    """How long to wait for all nodes and their devices before giving up."""
    worker_timeout_seconds: PositiveFloat = 1800.0
    """How long any single call to the workers may take before the run stops and says which call it was."""
    env: dict[EnvironmentName, EnvironmentValue] = Field(default_factory=dict)
    """Environment variables given to every worker process as they are."""

    @property
    def world_size(self) -> int:
        """Number of worker processes in the run."""
        return self.num_nodes * self.devices_per_node
