"""The quick start's own steps: check its request, complete its summary, judge its result.

python examples/grpo/quickstart_summary.py check CONFIG [key=value ...]
python examples/grpo/quickstart_summary.py merge RUN_DIR     puts the evaluation into RUN_DIR/summary.json
python examples/grpo/quickstart_summary.py judge RUN_DIR     prints the table; exit code 1 when it did not learn
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mindrl.errors import RequestError

REQUIRED = (
    "reward_first", "reward_last", "eval_before", "eval_after", "steps", "seconds", "tokens_per_second",
    "max_logprob_gap", "device", "world_size",
)  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """A condition that a run which learned meets."""

    text: str
    is_met: bool


def bars(summary: Mapping[str, float]) -> list[Bar]:
    """What has to hold for the run to count as learned."""
    gain = summary["eval_after"] - summary["eval_before"]
    return [
        Bar("sampled reward before the first update <= 0.2", summary["reward_first"] <= 0.2),
        Bar("sampled reward of the last ten steps >= 0.65", summary["reward_last"] >= 0.65),
        Bar("greedy accuracy after >= 0.9", summary["eval_after"] >= 0.9),
        Bar("greedy accuracy gained >= 0.2", gain >= 0.2),
    ]


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


def table(summary: Mapping[str, float], run_dir: Path) -> str:
    """What the run came to, in a few lines."""
    rows = [
        ("", "before", "after"),
        ("sampled reward", f"{summary['reward_first']:.3f}", f"{summary['reward_last']:.3f}"),
        ("greedy accuracy", f"{summary['eval_before']:.3f}", f"{summary['eval_after']:.3f}"),
    ]
    lines = [f"  {name:<18}{before:>8}{after:>8}" for name, before, after in rows]
    lines += [
        f"  {summary['steps']} steps in {summary['seconds']:.0f} s on {summary['world_size']} worker(s) of device "
        f"{summary['device']}, {summary['tokens_per_second']:.0f} tokens/s",
        f"  largest |log p_train - log p_rollout|: {summary['max_logprob_gap']:.1e}",
        f"  report: {run_dir / 'report.html'}",
    ]
    return "\n".join(lines)


def judge(run_dir: Path) -> int:
    """Print the table and the verdict; the exit code."""
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    print(table(summary, run_dir))
    missed = [bar.text for bar in bars(summary) if not bar.is_met]
    for text in missed:
        print(f"  not met: {text}")
    print("  it did not learn" if missed else "  it learned to sort")
    return 1 if missed else 0


def check(config: Path, overrides: list[str]) -> int:
    """Exit code 2, with the reason, when the configuration can't be right whatever the files hold."""
    from mindrl.config import load

    try:
        load(config, overrides)
    except RequestError as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 2
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=("check", "merge", "judge"))
    parser.add_argument("path", type=Path)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    if args.verb == "check":
        return check(args.path, args.overrides)
    if args.verb == "judge":
        return judge(args.path)
    merge(args.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
