"""A run in a dozen lines of a terminal."""

from collections.abc import Sequence

from mindrl.report.curves import sparkline
from mindrl.report.key_figures import KeyFigures, duration, key_figures, short
from mindrl.report.run_files import Run

SPARKS = (
    ("reward", "reward/mean"),
    ("response length", "response_length/mean"),
    ("entropy", "entropy"),
    ("step time", "time/step"),
)


def terminal_view(run: Run, others: Sequence[Run] = ()) -> str:
    """Key figures, one column a run, and the shape of the first run's most telling curves."""
    runs = [run, *others]
    columns = [dict(_rows(key_figures(r))) for r in runs]
    widths = [max(len(r.name), *map(len, column.values())) for r, column in zip(runs, columns, strict=True)]
    lines = [f"{'':18}" + "  ".join(f"{r.name:>{w}}" for r, w in zip(runs, widths, strict=True))]
    for name in columns[0]:
        lines.append(
            f"{name:18}"
            + "  ".join(f"{column[name]:>{w}}" for column, w in zip(columns, widths, strict=True))
        )
    lines.append("")
    for label, metric in SPARKS:
        values = run.series.get(metric)
        if values is not None and (drawn := sparkline(values)):
            lines.append(f"{label:18}{drawn}  {short(_newest(run, metric))}")
    lines.extend(f"note: {problem}" for problem in run.problems)
    return "\n".join(line.rstrip() for line in lines)


def _rows(figures: KeyFigures) -> list[tuple[str, str]]:
    of_total = f" of {figures.total_steps:,}" if figures.total_steps else ""
    return [
        ("steps", f"{figures.steps:,}{of_total}"),
        ("reward, first", short(figures.reward_first)),
        ("reward, last 10", short(figures.reward_last)),
        ("accuracy, before", short(figures.eval_before)),
        ("accuracy, after", short(figures.eval_after)),
        ("largest gap", short(figures.max_logprob_gap)),
        ("time", duration(figures.seconds)),
        ("tokens/s", short(figures.tokens_per_second)),
    ]


def _newest(run: Run, metric: str) -> float | None:
    values = run.series[metric]
    finite = values[values == values]
    return float(finite[-1]) if len(finite) else None
