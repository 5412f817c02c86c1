"""Which keys to change where a run does not fit. Every change named was tried: its estimate fits."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from mindrl.config.schema import Config
from mindrl.errors import RequestError
from mindrl.planning.checks import check_model
from mindrl.planning.memory import host
from mindrl.planning.memory.estimate import MemoryEstimate, estimate_memory

GIB = 1 << 30
Overrides = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """Keys with new values, and what the run then needs."""

    overrides: Mapping[str, Any]
    estimate: MemoryEstimate

    def sentence(self) -> str:
        """For people."""
        keys = ", ".join(f"{key}={value}" for key, value in self.overrides.items())
        return f"{keys}: {self.estimate.peak / GIB:.1f} GiB, in {self.estimate.peak_phase}"


def advise(estimate: MemoryEstimate, limit_bytes: int) -> list[str]:
    """One sentence a change that makes the run fit; where none does, the best of all together."""
    if estimate.fits(limit_bytes):
        return []
    changes = fitting_changes(estimate, limit_bytes)
    if changes:
        return [change.sentence() for change in changes]
    combinations = list(_combinations(estimate, limit_bytes))
    found = combinations[-1].sentence() if combinations else "no key that is tried here can be changed"
    return [
        f"nothing tried fits into {limit_bytes / GIB:.1f} GiB; the least is {found}. Use more devices "
        "(cluster.num_nodes, cluster.devices_per_node) with larger parallel sizes, or shorter sequences"
    ]


def fitting_changes(estimate: MemoryEstimate, limit_bytes: int) -> list[Change]:
    """The mildest value of each key that is enough by itself; where none is, the mildest of growing combinations."""
    found: list[Change] = []
    for values in _ladders(estimate.config):
        tried = (_change(estimate, overrides, limit_bytes) for overrides in values)
        first = next((change for change in tried if change and change.estimate.fits(limit_bytes)), None)
        if first is not None:
            found.append(first)
    if found:
        return found
    combinations = (
        change for change in _combinations(estimate, limit_bytes) if change.estimate.fits(limit_bytes)
    )
    return [change for change in (next(combinations, None),) if change]


def _ladders(config: Config) -> Iterator[list[Overrides]]:
    """For each key, values from the mildest on: first those that change no result, last those that change the run."""
    actor, world = config.actor, config.cluster.world_size
    yield [{"actor.micro_batch_size": size} for size in _halves(actor.micro_batch_size)]
    if actor.transformer_config.get("recompute_granularity") != "full":
        full = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
        yield [{f"actor.transformer_config.{key}": value for key, value in full.items()}]
    yield [
        {"actor.tensor_model_parallel_size": size, "actor.sequence_parallel": True}
        for size in _doubles(actor.tensor_model_parallel_size, world)
    ]
    yield [
        {"actor.pipeline_model_parallel_size": size}
        for size in _doubles(actor.pipeline_model_parallel_size, world)
    ]
    yield [
        {"rollout.tensor_parallel_size": size}
        for size in _doubles(config.rollout.tensor_parallel_size, world)
    ]
    if not host.is_host(config):
        share = config.rollout.gpu_memory_utilization
        yield [
            {"rollout.gpu_memory_utilization": round(share - step / 20, 2)}
            for step in range(1, 20)
            if share - step / 20 > 0.05
        ]
        yield [
            {"rollout.gpu_memory_utilization": round(share + step / 20, 2)}
            for step in range(1, 20)
            if share + step / 20 < 0.95
        ]
    if actor.dtype == "float32":
        yield [{"actor.dtype": "bfloat16"}]


def _combinations(estimate: MemoryEstimate, limit_bytes: int) -> Iterator[Change]:
    """The best value of one key after the other, each on top of those before, where it helps; the last needs least."""
    merged: Overrides = {}
    best = estimate
    for values in _ladders(estimate.config):
        tried = [_change(estimate, merged | overrides, limit_bytes) for overrides in values]
        change = min(
            (change for change in tried if change), key=lambda change: _need(change.estimate), default=None
        )
        if change is not None and _need(change.estimate) < _need(best):
            merged, best = dict(change.overrides), change.estimate
            yield change


def _need(estimate: MemoryEstimate) -> tuple[bool, int, int]:
    """Smaller is better: an engine that can serve, then the peak, then what the other phases take."""
    return not estimate.engine_can_serve, estimate.peak, sum(estimate.phases.values())


def _change(estimate: MemoryEstimate, overrides: Overrides, limit_bytes: int) -> Change | None:
    """None where the configuration or the model does not allow it."""
    values = estimate.config.model_dump(mode="json")
    for key, value in overrides.items():
        *path, name = key.split(".")
        section = values
        for part in path:
            section = section[part]
        section[name] = value
    try:
        config = Config.model_validate(values)
        check_model(config, estimate.architecture)
    except (ValidationError, RequestError):
        return None
    device_memory = None if estimate.device_memory is None else limit_bytes
    changed = estimate_memory(config, estimate.architecture, device_memory)
    return Change(overrides, changed)


def _halves(size: int) -> list[int]:
    return [size >> shift for shift in range(1, size.bit_length()) if size % (1 << shift) == 0]


def _doubles(size: int, limit: int) -> list[int]:
    return [size << shift for shift in range(1, 12) if size << shift <= limit]
