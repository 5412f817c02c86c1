"""A plan as text: what `mindrl plan` prints."""

from collections.abc import Collection, Sequence

from mindrl.planning.parameters import SHARED_BY, ParameterCounts, active_parameters
from mindrl.planning.plan import RunPlan
from mindrl.planning.topology import Place

ROWS_AT_FIRST, ROWS_AT_LAST = 12, 2
"""Ranks shown of a large world."""


def plan_text(plan: RunPlan, *, all_ranks: bool = False) -> str:
    """Model, ranks, batch, memory, notes; `all_ranks` shows every rank of a large world too."""
    sections = [_model(plan), _topology(plan, all_ranks), _batch(plan), _memory(plan)]
    if plan.notes:
        sections.append("\n".join(f"note: {note}" for note in plan.notes))
    return "\n\n".join(sections)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> str:
    """Columns as wide as they need; those of `left` are text, the others numbers."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    )


def count(number: int) -> str:
    """A number of parameters or tokens in few characters."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.2f} {unit}" if number < 100 * size else f"{number / size:.0f} {unit}"
    return str(number)


def _model(plan: RunPlan) -> str:
    arch, active = plan.architecture, active_parameters(plan.architecture)
    used = f", {count(active)} used by each token" if active != plan.whole.total else ""
    first = (
        f"model      {plan.config.model.path} ({arch.model_type}): {count(plan.whole.total)} parameters{used}"
    )
    rows = {"whole model": plan.whole}
    for stage, (layers, held) in enumerate(zip(plan.stages, plan.stage_parameters, strict=True)):
        where = f", PP {stage}" if len(plan.stages) > 1 else ""
        rows[f"a rank{where}: {_layers(layers)}"] = held
    return f"{first}\n\n{_parameter_table(rows)}"


def _layers(layers: range) -> str:
    if len(layers) == 0:
        return "no layer"
    return f"layers {layers[0]}-{layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"


def _parameter_table(rows: dict[str, ParameterCounts]) -> str:
    parts = [part for part in SHARED_BY if any(getattr(held, part) for held in rows.values())]
    body = [
        [name, *(count(getattr(held, part)) for part in parts), count(held.total)]
        for name, held in rows.items()
    ]
    body.append(["shared by", *(" x ".join(SHARED_BY[part]) or "nobody" for part in parts), ""])
    return table(["parameters", *parts, "total"], body)


def _topology(plan: RunPlan, all_ranks: bool) -> str:
    t = plan.topology
    nodes = t.world_size // t.devices_per_node
    sizes = {"TP": t.tensor_parallel_size, "PP": t.pipeline_parallel_size, "CP": t.context_parallel_size}
    shape = " x ".join(f"{name} {size}" for name, size in sizes.items())
    expert = ""
    if plan.architecture.experts is not None:
        expert = f"; experts TP {t.tensor_parallel_size} x EP {t.expert_parallel_size} x DP {t.expert_data_parallel_size}"
    lines = [
        f"devices    {t.world_size}: {_plural(nodes, 'node')} x {t.devices_per_node}",
        f"actor      {shape} x DP {t.data_parallel_size}{expert}",
        f"rollout    {_plural(t.num_engines, 'engine')} of {_plural(t.engine_size, 'device')}",
    ]
    head = ["rank", "node", "device", "TP", "PP", "CP", "EP", "DP", "engine", "roles"]
    places = list(t.places)
    hidden = 0 if all_ranks else max(0, len(places) - ROWS_AT_FIRST - ROWS_AT_LAST)
    if hidden <= 2:
        body, hidden = [_row(place, plan) for place in places], 0
    else:
        shown = [*places[:ROWS_AT_FIRST], *places[-ROWS_AT_LAST:]]
        body = [_row(place, plan) for place in shown]
        body.insert(ROWS_AT_FIRST, ["...", *[""] * (len(head) - 1)])
    ranks = table(head, body, left=(8, 9))
    more = f"\n({hidden} more ranks: --all shows them)" if hidden else ""
    return "\n".join(lines) + "\n\n" + ranks + more


def _row(place: Place, plan: RunPlan) -> list[str]:
    engine = f"{place.engine_index}"
    if plan.topology.engine_size > 1:
        engine += f" shard {place.engine_rank}"
    coordinates = (
        place.tensor_parallel_rank,
        place.pipeline_parallel_rank,
        place.context_parallel_rank,
        place.expert_parallel_rank,
        place.data_parallel_rank,
    )
    return [
        str(place.rank),
        str(place.node),
        str(place.device),
        *map(str, coordinates),
        engine,
        ", ".join(plan.roles),
    ]


def _batch(plan: RunPlan) -> str:
    batch, config = plan.batch, plan.config
    rows = [
        ("prompts a step", batch.num_prompts, "trainer.global_batch_size"),
        ("samples a step", batch.num_samples, f"x {batch.n_samples} rollout.n_samples"),
        (
            "tokens a step, at most",
            plan.tokens_per_step,
            f"x ({config.data.max_prompt_length} data.max_prompt_length + "
            f"{config.data.max_response_length} data.max_response_length)",
        ),
        (
            "prompts an engine, at most",
            plan.prompts_per_engine,
            f"{batch.num_prompts} prompts among {_plural(plan.topology.num_engines, 'engine')}",
        ),
        (
            "optimizer steps a step",
            batch.num_mini_batches,
            f"{batch.num_prompts} prompts / {batch.mini_batch_size} actor.mini_batch_size",
        ),
        (
            "samples an optimizer step",
            batch.samples_per_mini_batch,
            f"{batch.mini_batch_size} prompts x {batch.n_samples} samples",
        ),
        (
            "micro-batches of each copy",
            batch.num_micro_batches,
            f"{batch.samples_per_mini_batch} samples / (DP {batch.data_parallel_size} x "
            f"{batch.micro_batch_size} actor.micro_batch_size)",
        ),
        (
            "optimizer steps in all",
            batch.optimizer_steps,
            f"{batch.num_mini_batches} x {batch.total_steps} trainer.total_steps",
        ),
    ]
    passes = (
        "a pass of their own" if config.recomputes_old_log_probs else "the update's own (one optimizer step)"
    )
    lines = table(
        ["batch", "", ""], [[name, f"{value:,}", origin] for name, value, origin in rows], left=(0, 2)
    )
    return f"{lines}\nold log-probs: {passes}"


def _memory(plan: RunPlan) -> str:
    """A line a part, a column a phase, GiB on the rank that needs most."""
    memory = plan.memory
    head = [f"memory in GiB, rank {memory.rank}", *memory.phases]
    body = [
        [part.name, *(_gib(part.bytes) if phase in part.phases else "" for phase in memory.phases)]
        for part in memory.parts
        if part.phases
    ]
    body.append(["sum", *(_gib(size) for size in memory.phases.values())])
    lines = [table(head, body), f"peak: {_gib(memory.peak)} GiB, in {memory.peak_phase}"]
    if plan.memory_limit is None:
        lines.append("(--device-memory GIB says whether that fits, and what to change)")
    else:
        limit = f"{_gib(plan.memory_limit)} GiB"
        share = (
            "" if memory.engine_can_serve else " (the engine's share of it holds no sequence of full length)"
        )
        lines.append(
            f"fits into {limit}" if plan.fits else f"does not fit into {limit}{share}; what would help:"
        )
        lines += [f"  {sentence}" for sentence in memory.advice(plan.memory_limit)]
    return "\n".join(lines)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
