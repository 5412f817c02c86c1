"""Draws panels with matplotlib as svg that stands inside the page and takes its colours from the page."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from mindrl.report.curves import smooth, thin_extremes, thin_mean, window_for
from mindrl.report.key_figures import short
from mindrl.report.panels import Curve, Panel
from mindrl.report.run_files import Floats
from mindrl.report.theme import COLOURS

MOST_POINTS = 500
"""Points a line is drawn with; more can't be told apart on a screen."""
INCHES = (4.3, 2.25)
STYLE = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's own font
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "lines.linewidth": 1.5,
    "lines.solid_joinstyle": "round",
    "path.simplify": True,
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line ready to be drawn."""

    label: str
    colour: str
    """A name of `theme.COLOURS`."""
    steps: Floats
    values: Floats


def lines_of(panel: Panel, steps: Floats, series: Mapping[str, Floats]) -> list[Line]:
    """The panel's curves that this run has at least one finite value of."""
    lines = [
        Line(curve.label, curve.colour, steps, _values(curve, panel, series))
        for curve in panel.curves
        if curve.metric in series
    ]
    return [line for line in lines if np.isfinite(line.values).any()]


def _values(curve: Curve, panel: Panel, series: Mapping[str, Floats]) -> Floats:
    """A curve's values; in a stack, `other` is what the parts leave of the whole."""
    values = series[curve.metric]
    if panel.kind != "stacked" or curve.label != "other":
        return values
    parts = [np.nan_to_num(series[c.metric]) for c in panel.curves if c is not curve and c.metric in series]
    return np.clip(values - sum(parts, np.zeros_like(values)), 0.0, None)


def draw(panel: Panel, lines: Sequence[Line], thresholds: Sequence[float], name: str) -> str:
    """An `<svg>` element. `name` is unique on the page, so that two figures' clip paths stay apart."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=INCHES, layout="constrained")
        axes = figure.add_subplot()
        if panel.kind == "stacked":
            _stack(axes, lines)
        elif panel.kind == "points":
            _points(axes, lines)
        else:
            _lines(axes, lines, panel)
        _scale(axes, panel, lines)
        for value in thresholds:
            _threshold(axes, value, panel.log)
        _dress(axes, panel)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), panel.title)


def _ink(name: str) -> str:
    return COLOURS[name].stand_in


def _lines(axes: Axes, lines: Sequence[Line], panel: Panel) -> None:
    """The moving mean with every value as a faint line behind it, or just the values; first lines come out on top."""
    for depth, line in enumerate(lines):
        values = np.where(line.values > 0, line.values, np.nan) if panel.log else line.values
        window = window_for(len(values)) if panel.kind == "smoothed" else 1
        colour, order = _ink(line.colour), 10 - depth
        if window > 1:
            axes.plot(
                *thin_extremes(line.steps, values, MOST_POINTS),
                color=colour,
                alpha=0.25,
                lw=0.8,
                zorder=order,
            )
        marker = "o" if np.isfinite(values).sum() < 3 else None
        trend = thin_mean(line.steps, smooth(values, window), MOST_POINTS)
        axes.plot(*trend, color=colour, zorder=order + 10, marker=marker, ms=3.5)


def _points(axes: Axes, lines: Sequence[Line]) -> None:
    for line in lines:
        present = np.isfinite(line.values)
        axes.plot(
            line.steps[present], line.values[present], "-o", color=_ink(line.colour), ms=4, clip_on=False
        )


def measured(lines: Sequence[Line]) -> list[Line]:
    """The lines without the steps that none of them has a value of, such as an evaluation before the first step."""
    present = np.isfinite([line.values for line in lines]).any(axis=0)
    return [replace(line, steps=line.steps[present], values=line.values[present]) for line in lines]


def _stack(axes: Axes, lines: Sequence[Line]) -> None:
    thinned = [
        thin_mean(line.steps, np.nan_to_num(line.values), MOST_POINTS // 6) for line in measured(lines)
    ]
    axes.stackplot(
        thinned[0][0],
        *[values for _, values in thinned],
        colors=[_ink(line.colour) for line in lines],
        alpha=0.85,
        linewidth=0.4,
        edgecolor=_ink("card"),
    )


def _scale(axes: Axes, panel: Panel, lines: Sequence[Line]) -> None:
    """Log axes where asked for; else from zero where that costs little of the picture."""
    finite = np.concatenate([line.values[np.isfinite(line.values)] for line in lines])
    if panel.log and (finite > 0).any():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="y", which="minor", length=0)
    elif panel.kind == "points":
        axes.set_ylim(0.0, 1.0)
    elif finite.min() >= 0 and finite.min() <= 0.6 * finite.max():
        axes.set_ylim(bottom=0.0)
    first, last = lines[0].steps[0], lines[0].steps[-1]
    if last > first:
        axes.set_xlim(first, last)


def _threshold(axes: Axes, value: float, log: bool) -> None:
    """A dashed line, unless it lies so far above the curves that it would flatten them."""
    top = axes.get_ylim()[1]
    if (log and value <= 0) or (not log and value > 1.6 * top):
        return
    axes.axhline(value, color=_ink("red"), lw=1.0, ls=(0, (4, 3)))
    if value >= top:
        axes.set_ylim(top=value * 3 if log else value * 1.12)


def _dress(axes: Axes, panel: Panel) -> None:
    """Ticks, grid and labels."""
    muted = _ink("muted")
    axes.tick_params(colors=muted, length=0, pad=4)
    axes.spines["bottom"].set_color(_ink("line"))
    axes.grid(axis="y", color=_ink("line"), lw=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    if not panel.log:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("step", color=muted, fontsize=8)
    if panel.unit:
        axes.set_ylabel(panel.unit, color=muted, fontsize=8)


def _inline(svg: str, title: str) -> str:
    """The svg element without prologue, of the width the page gives it, in the page's colours and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', rf'\1 role="img" aria-label="{title}"', svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+)px 'DejaVu Sans'", r"font-size: \1px", svg)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour.stand_in, f"var(--{name})")
    return svg
