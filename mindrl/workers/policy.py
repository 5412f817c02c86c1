"""The driver's side of the policy workers: one verb a stage, so that the driver reads as if there were one device."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mindrl.config.schema import Config
from mindrl.planning.batch import BatchPlan
from mindrl.planning.topology import Topology
from mindrl.workers.group import WorkerGroup
from mindrl.workers.messages import EngineOutput, PromptBatch, Restored, Rollout, Shard


class Policy:
    """All policy workers as one. What a verb returns is equal on every worker, or put together from all of them."""

    def __init__(self, workers: WorkerGroup, topology: Topology, plan: BatchPlan) -> None:
        self._workers = workers
        self._topology = topology
        self._plan = plan

    def sync_weights(self, version: int) -> None:
        """Bring the engines to the actor's weights, from now on called `version`."""
        self._workers.call("sync_weights", version)

    def generate(self, prompts: PromptBatch) -> Rollout:
        """`rollout.n_samples` responses to every prompt, the prompts dealt out to the engines in turn."""
        return self._roll_out("generate", prompts)

    def evaluate(self, prompts: PromptBatch) -> Rollout:
        """`evaluation.n_samples` responses to every prompt."""
        return self._roll_out("evaluate", prompts)

    def receive(self, rollout: Rollout) -> None:
        """Let every worker fetch the samples it trains on."""
        self._workers.call_each(
            "receive",
            [
                (rollout.prompts.step, rollout.samples, self._plan.samples_of_rank(place.data_parallel_rank))
                for place in self._topology.places
            ],
        )

    def compute_old_log_probs(self) -> dict[str, float]:
        """The separate pass for old log-probs; returns its metrics."""
        return self._workers.call("compute_old_log_probs")[0]

    def compute_reference_log_probs(self) -> dict[int, float]:
        """The reference pass; returns what KL takes from each sample's reward, by sample_id (often nothing)."""
        penalties: dict[int, float] = {}
        for part in self._workers.call("compute_reference_log_probs"):
            penalties |= part
        return penalties

    def update(self, shards: Sequence[Shard], lr: float) -> Mapping[str, float]:
        """One optimizer step on a mini-batch cut into one shard per data-parallel rank; returns its metrics."""
        arguments = [(shards[place.data_parallel_rank], lr) for place in self._topology.places]
        return self._workers.call_each("update", arguments)[0]

    def save(self, directory: Path, step: int, hf_dir: Path, progress: Mapping[str, Any]) -> None:
        """Write a checkpoint, with `progress` (plain values) in it."""
        self._workers.call("save", directory, step, hf_dir, progress)

    def restore(self, checkpoint: Path, step: int, config: Config) -> Restored:
        """Take the state of a checkpoint."""
        return self._workers.call("restore", checkpoint, step, config)[0]

    def _roll_out(self, method: str, prompts: PromptBatch) -> Rollout:
        num_engines = self._topology.num_engines
        shares = [tuple(range(engine, prompts.num_prompts, num_engines)) for engine in range(num_engines)]
        arguments: list[tuple[Any, ...]] = [
            (prompts, shares[place.engine_index]) for place in self._topology.places
        ]
        outputs: list[EngineOutput | None] = self._workers.call_each(method, arguments)
        return Rollout.join(prompts, [output for output in outputs if output is not None])
