"""What the scripts that do everything ask beside `mindrl`: is the request sound, what came of the run, did it learn.

python examples/grpo/run_verdict.py check CONFIG [key=value ...]
python examples/grpo/run_verdict.py merge RUN_DIR         puts the evaluation into RUN_DIR/summary.json
python examples/grpo/run_verdict.py judge RUN_DIR TASK    prints the table; exit code 1 when it did not learn the task
python examples/grpo/run_verdict.py steps RUN_DIR         prints lengths, cuts, rewards and gap, step by step
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mindrl.errors import RequestError

REQUIRED = (
    "reward_first", "reward_last", "eval_before", "eval_after", "steps", "seconds", "tokens_per_second",
    "max_logprob_gap", "device", "world_size",
)  # fmt: skip
STEP_COLUMNS = {
    "reward": "reward/mean",
    "length": "response_length/mean",
    "longest": "response_length/max",
    "cut": "response_length/truncated_fraction",
    "gap mean": "logprob_gap/mean",
    "gap max": "logprob_gap/max",
    "seconds": "time/step",
}
"""What is looked at where a run is too short to learn; the reward functions come beside them."""

Summary = Mapping[str, float]


@dataclass(frozen=True)
class Bar:
    """A condition that a run which learned meets."""

    text: str
    is_met: bool


def sorting(summary: Summary) -> list[Bar]:
    """The quick start's."""
    return [
        Bar("sampled reward before the first update <= 0.2", summary["reward_first"] <= 0.2),
        Bar("sampled reward of the last ten steps >= 0.65", summary["reward_last"] >= 0.65),
        Bar("held-out accuracy after >= 0.9", summary["eval_after"] >= 0.9),
        Bar("held-out accuracy gained >= 0.2", summary["eval_after"] - summary["eval_before"] >= 0.2),
    ]


def addition(summary: Summary) -> list[Bar]:
    """SmolLM2's: a real model need not be perfect, and its held-out sums are few."""
    return [
        Bar("sampled reward gained >= 0.3", summary["reward_last"] - summary["reward_first"] >= 0.3),
        Bar("held-out accuracy gained >= 0.1", summary["eval_after"] - summary["eval_before"] >= 0.1),
    ]


BARS: dict[str, Callable[[Summary], list[Bar]]] = {"sorting": sorting, "addition": addition}
"""What has to hold for a run to count as learned, by task."""


def merge(run_dir: Path) -> None:
    """Put pass@1 of the first and the last evaluated model into summary.json."""
    path = run_dir / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    results = json.loads((run_dir / "eval.json").read_text(encoding="utf-8"))["results"]
    summary["eval_before"] = results[0]["overall"]["pass_at_1"]
    summary["eval_after"] = results[-1]["overall"]["pass_at_1"]
    absent = [key for key in REQUIRED if key not in summary]
    if absent:
        raise SystemExit(f"{path} lacks {', '.join(absent)}: the training did not write a whole summary")
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def table(summary: Summary, run_dir: Path) -> str:
    """What the run came to, in a few lines."""
    rows = [
        ("", "before", "after"),
        ("sampled reward", f"{summary['reward_first']:.3f}", f"{summary['reward_last']:.3f}"),
        ("held-out accuracy", f"{summary['eval_before']:.3f}", f"{summary['eval_after']:.3f}"),
    ]
    lines = [f"  {name:<18}{before:>8}{after:>8}" for name, before, after in rows]
    lines += [
        f"  {summary['steps']} steps in {summary['seconds']:.0f} s on {summary['world_size']} worker(s) of device "
        f"{summary['device']}, {summary['tokens_per_second']:.0f} tokens/s",
        f"  largest |log p_train - log p_rollout|: {summary['max_logprob_gap']:.1e}",
        f"  report: {run_dir / 'report.html'}",
    ]
    return "\n".join(lines)


def judge(run_dir: Path, task: str) -> int:
    """Print the table and the verdict; the exit code."""
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    print(table(summary, run_dir))
    missed = [bar.text for bar in BARS[task](summary) if not bar.is_met]
    for text in missed:
        print(f"  not met: {text}")
    print("  it did not learn" if missed else f"  it learned {task}")
    return 1 if missed else 0


def steps(run_dir: Path) -> int:
    """Print one row a step; the exit code."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    history = [json.loads(line) for line in lines]
    totals = ("reward/mean", "reward/std", "reward/timeout_fraction")
    functions = {
        n.removeprefix("reward/"): n for n in history[0] if n.startswith("reward/") and n not in totals
    }
    columns = {**STEP_COLUMNS, **functions}
    print("  step" + "".join(f"{title:>{max(9, len(title) + 2)}}" for title in columns))
    for row in history:
        cells = (f"{row[metric]:>{max(9, len(title) + 2)}.3f}" for title, metric in columns.items())
        print(f"  {row['step']:>4}" + "".join(cells))
    print(f"  report: {run_dir / 'report.html'}")
    return 0


def check(config: Path, overrides: list[str]) -> int:
    """Exit code 2, with the reason, when the configuration can't be right whatever the files hold."""
    from mindrl.config import load

    try:
        load(config, overrides)
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    of_config = verbs.add_parser("check")
    of_config.add_argument("config", type=Path)
    of_config.add_argument("overrides", nargs="*")
    for verb in ("merge", "judge", "steps"):
        verbs.add_parser(verb).add_argument("run_dir", type=Path)
    verbs.choices["judge"].add_argument("task", choices=BARS)
    args = parser.parse_args()
    if args.verb == "check":
        return check(args.config, args.overrides)
    if args.verb == "judge":
        return judge(args.run_dir, args.task)
    if args.verb == "steps":
        return steps(args.run_dir)
    merge(args.run_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
