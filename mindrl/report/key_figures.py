"""The few numbers a run is judged by: from summary.json, or from its metrics where it has none."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from mindrl.report.run_files import Floats, Run

LAST_STEPS = 10
"""Steps that `reward_last` is the mean of."""


@dataclass(frozen=True, slots=True)
class KeyFigures:
    """None where the run's files don't say."""

    steps: int
    total_steps: int | None
    reward_first: float | None
    """Mean sampled reward before the first update."""
    reward_last: float | None
    """Mean of the last ten steps."""
    eval_before: float | None
    eval_after: float | None
    max_logprob_gap: float | None
    seconds: float | None
    tokens_per_second: float | None
    device: str | None
    world_size: int | None

    def as_json(self) -> dict[str, object]:
        """By field name."""
        return asdict(self)


def key_figures(run: Run) -> KeyFigures:
    """Read off the figures of a finished or unfinished run."""
    reward = _finite(run, "reward/mean")
    gap = _finite(run, "logprob_gap/max")
    speed = _finite(run, "throughput/tokens_per_second")
    seconds = _finite(run, "time/step")
    total = run.setting("trainer.total_steps")
    before, after = _evaluations(run)
    device, world_size = run.summary.get("device"), run.summary.get("world_size")
    return KeyFigures(
        steps=int(run.steps[-1]) if len(run.steps) else 0,
        total_steps=total if isinstance(total, int) else None,
        reward_first=_noted(run, "reward_first", float(reward[0]) if len(reward) else None),
        reward_last=_noted(run, "reward_last", float(reward[-LAST_STEPS:].mean()) if len(reward) else None),
        eval_before=_noted(run, "eval_before", before),
        eval_after=_noted(run, "eval_after", after),
        max_logprob_gap=_noted(run, "max_logprob_gap", float(gap.max()) if len(gap) else None),
        seconds=_noted(run, "seconds", float(seconds.sum()) if len(seconds) else None),
        tokens_per_second=_noted(run, "tokens_per_second", float(np.median(speed)) if len(speed) else None),
        device=device if isinstance(device, str) else None,
        world_size=world_size if isinstance(world_size, int) else None,
    )


def _finite(run: Run, name: str) -> Floats:
    values = run.series.get(name, np.empty(0))
    return values[np.isfinite(values)]


def _evaluations(run: Run) -> tuple[float | None, float | None]:
    """pass@1 before and after: of the first and last model of the eval files, or of the evaluations while training.

    "Before" is step 0 only: an evaluation after some training is not it."""
    if len(run.evaluations) > 1:
        return _pass_at_1(run.evaluations[0]), _pass_at_1(run.evaluations[-1])
    names = [name for name in run.series if name.startswith("eval/") and name.endswith("/pass_at_1")]
    if not names:
        return None, None
    values = run.series["eval/all/pass_at_1" if "eval/all/pass_at_1" in names else names[0]]
    evaluated = np.flatnonzero(np.isfinite(values))
    if not len(evaluated):
        return None, None
    before = float(values[evaluated[0]]) if run.steps[evaluated[0]] == 0 else None
    return before, float(values[evaluated[-1]])


def _pass_at_1(evaluation: Mapping[str, object]) -> float | None:
    overall = evaluation.get("overall")
    value = overall.get("pass_at_1") if isinstance(overall, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


def _noted(run: Run, key: str, otherwise: float | None) -> float | None:
    """The summary's value; what the metrics say where the summary has none."""
    value = run.summary.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else otherwise


def short(value: float | None) -> str:
    """A number in few characters."""
    if value is None or math.isnan(value):
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
