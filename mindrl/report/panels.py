"""Which curves the report shows, in which picture, with which thresholds."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mindrl.report.run_files import Floats, Run


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a picture."""

    label: str
    metric: str
    colour: str
    """A name of `theme.COLOURS`."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A dashed line at a value from the configuration."""

    label: str
    key: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture."""

    title: str
    caption: str
    curves: Sequence[Curve]
    kind: Literal["smoothed", "exact", "points", "stacked"] = "smoothed"
    """`smoothed` has the moving mean over the faint values; `exact` the values; `points` few values, joined;
    `stacked` areas that add up to a whole."""
    log: bool = False
    unit: str = ""
    thresholds: Sequence[Threshold] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Panels under one heading."""

    title: str
    panels: Sequence[Panel]


CYCLE = ("blue", "orange", "green", "purple", "teal", "red")
REWARD_TOTALS = ("reward/mean", "reward/std", "reward/timeout_fraction")


def _curves(*pairs: tuple[str, str]) -> tuple[Curve, ...]:
    return tuple(Curve(*pair, colour) for pair, colour in zip(pairs, itertools.cycle(CYCLE), strict=False))


REWARD = Panel("Reward", "Mean reward of the sampled responses.", _curves(("mean", "reward/mean")))
LENGTH = Panel(
    "Response length",
    "A length that runs against the limit is a warning.",
    _curves(("mean", "response_length/mean"), ("max", "response_length/max")),
    unit="tokens",
)
POLICY = (
    Panel(
        "KL divergence",
        "Distance from the reference policy, and from the policy that sampled.",
        _curves(("reference", "kl/reference"), ("ppo", "kl/ppo")),
        unit="nats per token",
    ),
    Panel(
        "Entropy",
        "Near zero the policy has stopped exploring.",
        _curves(("mean", "entropy")),
        unit="nats per token",
    ),
    Panel(
        "Gradient norm",
        "Before clipping; the dashed line is where clipping starts.",
        _curves(("norm", "grad_norm")),
        thresholds=(Threshold("clip", "actor.optimizer.clip_grad"),),
    ),
    Panel(
        "Loss",
        "Moves around zero by construction; not a measure of progress.",
        _curves(("policy", "loss/policy"), ("total", "loss/total")),
    ),
    Panel(
        "Lost signal",
        "Shares that teach nothing or too little: clipped tokens, groups of one score, cut responses.",
        _curves(
            ("clipped", "clip_fraction"),
            ("zero variance", "groups/zero_variance_fraction"),
            ("truncated", "response_length/truncated_fraction"),
        ),
        unit="fraction",
    ),
    Panel(
        "Learning rate", "Peak after warm-up, then the schedule's decay.", _curves(("lr", "lr")), kind="exact"
    ),
)
GAP = Panel(
    "Train / rollout gap",
    "|log p of the trainer − log p of the rollout engine| of the sampled tokens, on the same weights.",
    _curves(("max", "logprob_gap/max"), ("p99", "logprob_gap/p99"), ("mean", "logprob_gap/mean")),
    log=True,
    unit="nats",
    thresholds=(Threshold("stop", "rollout.logprob_gap_stop"),),
)
STEP_TIME = Panel(
    "Step time",
    "Where the seconds of a step go.",
    (
        *_curves(
            ("rollout", "time/rollout"),
            ("reward", "time/reward"),
            ("reference", "time/reference"),
            ("update", "time/update"),
            ("sync", "time/sync"),
        ),
        Curve("other", "time/step", "grey"),
    ),
    kind="stacked",
    unit="seconds",
)
THROUGHPUT = Panel(
    "Throughput",
    "Real tokens, no padding.",
    _curves(
        ("all devices", "throughput/tokens_per_second"),
        ("per device", "throughput/tokens_per_second_per_device"),
    ),
    unit="tokens/s",
)


def series_for(run: Run) -> Mapping[str, Floats]:
    """The run's series; where it was not evaluated while training, its evaluation before and after stands in."""
    ends = (run.summary.get("eval_before"), run.summary.get("eval_after"))
    evaluated = any(name.startswith("eval/") for name in run.series)
    if evaluated or len(run.steps) < 2 or not all(isinstance(value, int | float) for value in ends):
        return run.series
    values = np.full(len(run.steps), np.nan)
    values[0], values[-1] = ends
    return {**run.series, "eval/before and after/pass_at_1": values}


def groups_for(series: Mapping[str, Floats]) -> list[Group]:
    """The report's pictures for the metrics that there are."""
    learning = [REWARD, *_reward_functions(series), *_accuracy(series), LENGTH]
    groups = [
        Group("Learning", learning),
        Group("Policy", POLICY),
        Group("Agreement and speed", [GAP, STEP_TIME, THROUGHPUT]),
    ]
    return [Group(g.title, kept) for g in groups if (kept := [p for p in g.panels if _has_any(p, series)])]


def _has_any(panel: Panel, series: Mapping[str, object]) -> bool:
    return any(curve.metric in series for curve in panel.curves)


def _reward_functions(series: Mapping[str, object]) -> list[Panel]:
    """One picture of all reward functions; none when there is only one, which is the reward itself."""
    names = [n for n in series if n.startswith("reward/") and n not in REWARD_TOTALS]
    if len(names) < 2:
        return []
    pairs = [(name.removeprefix("reward/"), name) for name in names]
    return [Panel("Reward functions", "Mean score of each, before its weight.", _curves(*pairs))]


def _accuracy(series: Mapping[str, object]) -> list[Panel]:
    """Accuracy by evaluation set: pass@1."""
    names = [name for name in series if re.fullmatch(r"eval/.+/pass_at_1", name)]
    if not names:
        return []
    pairs = [(name.removeprefix("eval/").removesuffix("/pass_at_1"), name) for name in names]
    return [
        Panel(
            "Accuracy",
            "Share of evaluation prompts answered right (pass@1).",
            _curves(*pairs),
            kind="points",
            unit="fraction",
        )
    ]
