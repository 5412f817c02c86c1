"""One rank of `benchmarks/memory.py`: builds a policy worker's roles, runs steps, writes bytes by phase.

What a policy worker does between phases goes through Ray there and through `torch.distributed` here.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray  # noqa: F401  resident in a policy worker too
import torch.distributed as dist

import hal
import mindrl.rollout.vllm_engine  # noqa: F401  before the first figure is taken
from mindrl.config.schema import Config
from mindrl.data.records import Prompt, Sample
from mindrl.planning.batch import BatchPlan
from mindrl.planning.topology import Topology
from mindrl.workers.build import build_roles
from mindrl.workers.identity import WorkerIdentity
from mindrl.workers.messages import Shard
from mindrl.workers.saving import save


class Phases:
    """Largest resident memory of each phase, above what was resident when this was made."""

    def __init__(self) -> None:
        self._accelerator = hal.choose("cpu")
        self._base = self._accelerator.memory_allocated()
        self.peaks: dict[str, int] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._accelerator.reset_peak_memory()
        yield
        peak = self._accelerator.max_memory_allocated() - self._base
        self.peaks[name] = max(peak, self.peaks.get(name, 0))


def run(config: Config, identity: WorkerIdentity, address: str, directory: Path, steps: int) -> Phases:
    """The steps of a run, from set-up to checkpoint."""
    phases = Phases()
    with phases.phase("set-up"):
        roles = build_roles(config, identity, address, resumed=False)
    plan = BatchPlan.from_config(config)
    place = Topology.from_config(config).places[identity.rank]
    prompts = _prompts(config, plan.num_prompts)
    mine = range(place.engine_index, plan.num_prompts, config.num_engines)
    with phases.phase("weight sync"):
        roles.rollout.update_weights(roles.backend.named_tensors(), 0)
    for step in range(1, steps + 1):
        with phases.phase("rollout"):
            samples = roles.rollout.generate(prompts, mine, step)
        everyone = _everyones(samples)
        own = {index: everyone[index] for index in plan.samples_of_rank(place.data_parallel_rank)}
        roles.actor.receive(step, own)
        if config.recomputes_old_log_probs:
            with phases.phase("old log-probs"):
                roles.actor.compute_old_log_probs()
        if config.has_reference:
            with phases.phase("reference"):
                roles.reference.compute_log_probs(own, roles.actor.old_log_probs())
        for mini_batch in plan.mini_batches:
            shard = _shard(mini_batch[place.data_parallel_rank], config.data.max_response_length)
            with phases.phase("update"):
                roles.actor.update(shard, roles.reference.log_probs(), config.actor.optimizer.lr)
        with phases.phase("weight sync"):
            roles.rollout.update_weights(roles.backend.named_tensors(), step)
    with phases.phase("save"):
        save(roles.backend, directory / "checkpoints", steps, config.model.path, {})
    dist.barrier()  # the process group goes with the engine, when this returns
    return phases


def _prompts(config: Config, number: int) -> list[Prompt]:
    rng = np.random.default_rng(0)
    vocab_size = json.loads((config.model.path / "config.json").read_text())["vocab_size"]
    length = config.data.max_prompt_length
    rows = rng.integers(1, vocab_size, (number, length)).astype(np.int32)
    return [Prompt(str(index), "", row, "", "") for index, row in enumerate(rows)]


def _everyones(samples: list[Sample]) -> dict[int, Sample]:
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, samples)
    return {sample.sample_id: sample for part in gathered for sample in part}


def _shard(sample_ids: tuple[int, ...], length: int) -> Shard:
    signs = tuple(1.0 if index % 2 else -1.0 for index in range(len(sample_ids)))
    return Shard(sample_ids, signs, (1 / (length * len(sample_ids)),) * len(sample_ids))


def main() -> None:
    request = json.loads(sys.argv[1])
    identity, directory = WorkerIdentity(*request["identity"]), Path(request["directory"])
    config = Config.model_validate(request["config"])
    phases = run(config, identity, request["address"], directory, config.trainer.total_steps)
    (directory / f"rank{identity.rank}.json").write_text(json.dumps(phases.peaks))
    sys.stdout.flush()
    os._exit(0)  # taking an engine down is not what is measured


if __name__ == "__main__":
    main()
