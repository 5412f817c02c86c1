"""Kernels of the HAL: what was selected, beside the naive reference and the best provider present, in one run.

    python benchmarks/kernels.py [--accelerator NAME] [--size small] [--dtype bfloat16] [--ops attention,swiglu] [--json]

Every provider that serves the model's facts computes the same workload (`kernel_workloads.py`), all of them in turn, many
rounds; times are medians over rounds, taken with the accelerator's own events, forward (with a graph) and backward apart.
On a host that others use too, `--processor-time` counts the processor's time instead. An op whose forward pass does the
backward pass's work too is compared by the sum.

The machine's ceilings are measured in the same type, before each workload, and the best of the run counts: bytes a second
of a copy or of a product in place, whichever is faster, much larger than the caches; and floating-point operations a
second of a square matrix product. `of ceiling` is the least work that the result needs (see
`kernel_workloads.py`) over the time, over the ceiling: 1 is as fast as the machine can, and small workloads that stay in
the caches may exceed it. `best` names the provider, other than the reference, with the least sum of both passes.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from kernel_workloads import SIZES, WORKLOADS, Bench, Work, Workload

import hal
from hal.kernels.registry import OPS, providers


@dataclass(frozen=True, slots=True)
class Clock:
    """How long a call takes."""

    accelerator: hal.Accelerator
    of_processor: bool
    """Count the processor's time instead: on a host that others use too, with one thread."""

    def time(self, call: Callable[[], Any]) -> tuple[Any, float]:
        """What a call returns, and its milliseconds."""
        if self.of_processor:
            before = time.process_time()
            return call(), 1e3 * (time.process_time() - before)
        start, end = (self.accelerator.Event(enable_timing=True) for _ in range(2))
        self.accelerator.synchronize()
        start.record()
        result = call()
        end.record()
        end.synchronize()
        return result, start.elapsed_time(end)


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Of this machine, in this run."""

    bytes_per_second: float
    flops_per_second: float

    def share(self, work: Work, milliseconds: float) -> float:
        """Of the ceiling that bounds such work."""
        least = work.flops / self.flops_per_second + work.bytes / self.bytes_per_second
        return 1e3 * least / milliseconds


def measure_ceilings(
    clock: Clock, dtype: torch.dtype, side: int, so_far: Ceilings, rounds: int = 3
) -> Ceilings:
    """The best of several tries and of `so_far`: what neighbours take away is no property of the machine."""
    source = torch.ones(side * side * 16, device=clock.accelerator.device(), dtype=dtype)
    target, num_bytes = torch.empty_like(source), 2 * source.numel() * source.itemsize
    a, b = (torch.ones(side, side, device=clock.accelerator.device(), dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    passes = [lambda: target.copy_(source), lambda: source.mul_(1)]
    for _ in range(rounds):
        # A machine may read what it is about to overwrite, which a product in place wants anyway.
        milliseconds = min(clock.time(step)[1] for step in passes)
        product = clock.time(lambda: torch.mm(a, b, out=out))[1]
        so_far = Ceilings(
            max(so_far.bytes_per_second, 1e3 * num_bytes / milliseconds),
            max(so_far.flops_per_second, 2e3 * side**3 / product),
        )
    return so_far


def run_once(clock: Clock, function: Callable[..., Any], workload: Workload) -> tuple[float, float]:
    """Milliseconds of forward and backward; 0 for a backward pass that the op lacks."""
    output, forward = clock.time(lambda: function(*workload.arguments, **workload.options))
    if workload.backward is None:
        return forward, 0.0
    outputs = output if isinstance(output, tuple) else (output,)
    results = [result for result in outputs if isinstance(result, torch.Tensor) and result.requires_grad]
    wanted = [
        value for value in workload.arguments if isinstance(value, torch.Tensor) and value.requires_grad
    ]
    directions = [torch.ones_like(result) for result in results]
    _, backward = clock.time(lambda: torch.autograd.grad(results, wanted, directions))
    return forward, backward


def measure(clock: Clock, bench: Bench, workload: Workload, rounds: int) -> dict[str, Any]:
    """Medians of every provider that serves; which one was selected, and which is the best."""
    facts = bench.facts(workload.facts)
    selected = hal.select(clock.accelerator, facts).providers[workload.op]
    serving, reasons = {}, {}
    for provider in providers(workload.op):
        reason = provider.why_not(clock.accelerator, facts)
        if reason is None:
            serving[provider.name] = provider.function
        else:
            reasons[provider.name] = reason
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in serving}
    for function in serving.values():
        run_once(clock, function, workload)
    for turn in range(rounds):
        names = list(serving) if turn % 2 == 0 else list(serving)[::-1]
        for name in names:
            times[name].append(run_once(clock, serving[name], workload))
    found = {name: _summary(workload, rows) for name, rows in times.items()}
    best = min(
        (name for name in found if name != "reference"),
        key=lambda name: found[name]["both_ms"],
        default="reference",
    )
    return {
        "op": workload.op,
        "workload": workload.name,
        "shape": workload.shape,
        "least_work": _least_work(workload),
        "dtype": str(facts.dtype).removeprefix("torch."),
        "selected": selected,
        "best": best,
        "selected_over_reference": found[selected]["both_ms"] / found["reference"]["both_ms"],
        "selected_over_best": found[selected]["both_ms"] / found[best]["both_ms"],
        "providers": found,
        "not_serving": reasons,
    }


def _summary(workload: Workload, rows: list[tuple[float, float]]) -> dict[str, float]:
    forward, backward = (statistics.median(column) for column in zip(*rows, strict=True))
    result = {"both_ms": statistics.median(sum(row) for row in rows)}
    if not workload.passes_are_one:
        result["forward_ms"] = forward
        if workload.backward is not None:
            result["backward_ms"] = backward
    return result


def _least_work(workload: Workload) -> dict[str, dict[str, float]]:
    forward, backward = workload.forward, workload.backward or Work()
    both = Work(forward.flops + backward.flops, forward.bytes + backward.bytes)
    return {"forward": asdict(forward), "backward": asdict(backward), "both": asdict(both)}


def add_shares(workload: dict[str, Any], ceilings: Ceilings) -> None:
    """To each provider's times, what part of the ceiling they reach."""
    for times in workload["providers"].values():
        for name in ("forward", "backward", "both"):
            if f"{name}_ms" in times:
                work = Work(**workload["least_work"][name])
                times[f"{name}_of_ceiling"] = ceilings.share(work, times[f"{name}_ms"])


def table(report: dict[str, Any]) -> str:
    """Markdown; a row a workload and provider, the selected one marked."""
    lines = [
        f"{report['device']}, torch {report['torch']}, {report['dtype']}, size {report['size']}, "
        f"{report['threads']} host threads, {report['rounds']} rounds, times of {report['clock']}. Ceilings: copy "
        f"{report['ceilings']['bytes_per_second'] / 1e9:.1f} GB/s, product "
        f"{report['ceilings']['flops_per_second'] / 1e12:.3f} TFLOP/s.",
        "",
        "| op | shape | provider | forward ms | backward ms | both / reference | both / best | of ceiling, forward | backward | both |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for found in report["workloads"]:
        known = found["providers"]
        for name, row in known.items():
            mark = f"**{name}**" if name == found["selected"] else name
            cells = [f"{found['op']}, {found['workload']}", found["shape"], mark]
            cells += [f"{row[key]:.2f}" if key in row else "" for key in ("forward_ms", "backward_ms")]
            cells += [
                f"{row['both_ms'] / known[other]['both_ms']:.2f}" for other in ("reference", found["best"])
            ]
            keys = ("forward_of_ceiling", "backward_of_ceiling", "both_of_ceiling")
            cells += [f"{row[key]:.2f}" if key in row else "" for key in keys]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--size", choices=list(SIZES), help="default: small on the host, else large")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="default: float32 on the host, else bfloat16",
    )
    parser.add_argument("--ops", help=f"some of {','.join(OPS)}; default: all")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on the host")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="on a host that others use too: the processor's time, not the clock's",
    )
    parser.add_argument("--json", action="store_true", help="for machines; reasons of providers too")
    args = parser.parse_args()
    if args.processor_time and args.threads != 1:
        parser.error("--processor-time adds up all threads; it needs --threads 1")
    names = args.ops.split(",") if args.ops else list(OPS)
    if unknown := sorted(set(names) - set(WORKLOADS)):
        parser.error(
            f"there is no workload for {', '.join(unknown)}; there is one for {', '.join(WORKLOADS)}"
        )
    torch.set_num_threads(args.threads)
    accelerator = hal.choose(args.accelerator)
    on_host = accelerator.device_type == "cpu"
    if args.processor_time and not on_host:
        parser.error(f"--processor-time is for the host, and this is {accelerator.name}")
    size, dtype = (
        args.size or ("small" if on_host else "large"),
        args.dtype or ("float32" if on_host else "bfloat16"),
    )
    bench = Bench(SIZES[size], accelerator.device(), getattr(torch, dtype))
    accelerator.manual_seed(0)
    side = {"tiny": 64, "small": 2048, "large": 8192}[size]
    clock = Clock(accelerator, args.processor_time)
    ceilings, workloads = Ceilings(0, 0), []
    for op in names:
        for workload in bench.of(op):
            ceilings = measure_ceilings(clock, bench.dtype, side, ceilings)
            workloads.append(measure(clock, bench, workload, args.rounds))
    for workload in workloads:
        add_shares(workload, ceilings)
    report: dict[str, Any] = {
        "accelerator": accelerator.name,
        "device": accelerator.description(),
        "torch": torch.__version__,
        "size": size,
        "dtype": dtype,
        "threads": args.threads,
        "rounds": args.rounds,
        "clock": "processor" if args.processor_time else "events",
        "ceilings": asdict(ceilings),
        "workloads": workloads,
    }
    print(json.dumps(report, indent=2) if args.json else table(report))


if __name__ == "__main__":
    main()
