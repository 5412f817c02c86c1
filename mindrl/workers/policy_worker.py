"""The integrated worker: one process per device that holds an actor shard, a reference shard and an engine shard.

It only composes the roles and passes data between them. Weights go from trainer to engine inside the process, so
that no device needs inter-process memory sharing.
"""

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from mindrl.config.schema import Config
from mindrl.data.records import Sample
from mindrl.workers.identity import WorkerIdentity
from mindrl.workers.messages import EngineOutput, PromptBatch, Restored, SampleFacts, Shard

if TYPE_CHECKING:
    from mindrl.workers.build import Roles


class PolicyWorker:
    """Every method is called on all workers together; collectives inside rely on it."""

    def __init__(self, identity: WorkerIdentity) -> None:
        self._identity = identity
        self._roles: Roles | None = None
        self._samples: dict[int, Sample] = {}

    def propose_address(self) -> str:
        """An address at which this worker's node can host the process group: `tcp://ip:free port`."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        return f"tcp://{ray.util.get_node_ip_address()}:{port}"

    def setup(self, config: Config, init_method: str, resumed: bool) -> None:
        """Join the process group and build the roles; the actor's weights wait for `restore` where it is `resumed`."""
        from mindrl.workers.build import build_roles  # Megatron and the engine: here, not in the driver

        self._roles = build_roles(config, self._identity, init_method, resumed=resumed)

    def device_facts(self) -> dict[str, object]:
        """What hal.txt (`table`) and hal.json (the rest) record of this worker."""
        return self._built.device_facts

    def sync_weights(self, version: int) -> None:
        """Actor weights into the engine."""
        self._built.rollout.update_weights(self._built.backend.named_tensors(), version)

    def generate(self, prompts: PromptBatch, group_ids: Sequence[int]) -> EngineOutput | None:
        """Sample responses to the prompts that this worker's engine was given; its first rank hands them over."""
        samples = self._built.rollout.generate(ray.get(prompts.reference), group_ids, prompts.step)
        return self._hand_over(samples)

    def evaluate(self, prompts: PromptBatch, group_ids: Sequence[int]) -> EngineOutput | None:
        """Like `generate`, with the sampling of the `evaluation` section."""
        samples = self._built.rollout.evaluate(ray.get(prompts.reference), group_ids, prompts.step)
        return self._hand_over(samples)

    def receive(self, step: int, samples: Sequence[ray.ObjectRef], sample_ids: Sequence[int]) -> None:
        """Fetch the samples that this worker's data-parallel rank trains on."""
        by_id = {sample.sample_id: sample for engine in ray.get(list(samples)) for sample in engine}
        self._samples = {sample_id: by_id[sample_id] for sample_id in sample_ids}
        self._built.actor.receive(step, self._samples)

    def compute_old_log_probs(self) -> dict[str, float]:
        """The separate pass for old log-probs, where one is needed."""
        return self._built.actor.compute_old_log_probs()

    def compute_reference_log_probs(self) -> dict[int, float]:
        """Reference log-probs of the received samples; what KL takes from their rewards, by sample_id."""
        return self._built.reference.compute_log_probs(self._samples, self._built.actor.old_log_probs())

    def update(self, shard: Shard, lr: float) -> dict[str, float]:
        """One optimizer step."""
        return self._built.actor.update(shard, self._built.reference.log_probs(), lr)

    def save(self, directory: Path, step: int, hf_dir: Path, progress: Mapping[str, Any]) -> None:
        """Write a checkpoint of the actor, this process's generators and the driver's `progress`."""
        from mindrl.workers.saving import save

        save(self._built.backend, directory, step, hf_dir, progress)

    def restore(self, checkpoint: Path, step: int, config: Config) -> Restored:
        """Inverse of `save`."""
        from mindrl.workers.saving import restore

        return restore(self._built.backend, checkpoint, step, config)

    def close(self) -> None:
        """Free the engine, last of all: it may take the default process group with it."""
        if self._roles is not None:
            self._roles.rollout.close()

    @property
    def _built(self) -> "Roles":
        assert self._roles is not None, "setup() comes first"
        return self._roles

    def _hand_over(self, samples: list[Sample]) -> EngineOutput | None:
        if self._identity.rank % self._built.engine_size:
            return None
        return EngineOutput(ray.put(samples), tuple(SampleFacts.of(sample) for sample in samples))
