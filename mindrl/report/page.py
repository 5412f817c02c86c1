"""report.html: one page that needs nothing but itself."""

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from mindrl.report import html
from mindrl.report.figures import Line, draw, lines_of
from mindrl.report.key_figures import KeyFigures, key_figures
from mindrl.report.panels import CYCLE, Panel, groups_for, series_for
from mindrl.report.run_files import Run, read_run
from mindrl.report.theme import STYLE_SHEET

FILE_NAME = "report.html"


def write_report(run_dir: Path, compare: Sequence[Path] = (), output: Path | None = None) -> Path:
    """Write the report of a run, its curves beside those of other runs if any are given; returns where it lies.

    `output` is `<run_dir>/report.html` unless given. `RequestError` when a directory holds no run."""
    path = output or run_dir / FILE_NAME
    text = render(read_run(run_dir), [read_run(other) for other in compare])
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    return path


def render(run: Run, others: Sequence[Run] = ()) -> str:
    """The page as text; the same run gives the same text."""
    figures = key_figures(run)
    body = [
        _head(run, figures),
        html.tiles(figures),
        html.notes(run),
        _comparison(run, others) if others else "",
        *_pictures(run, others),
        _section("Evaluation", html.evaluations(run.evaluations)) if run.evaluations else "",
        _section("Sampled responses", html.samples(run.samples)) if run.samples else "",
        _section("Device and kernels", _card(run.hal_text)) if run.hal_text else "",
        _section("Configuration", _folded("config.yaml", run.config_text)) if run.config_text else "",
    ]
    return html.document(f"{run.name} · mindrl", STYLE_SHEET, "".join(body))


def _head(run: Run, figures: KeyFigures) -> str:
    state = (
        '<span class="pill done">finished</span>'
        if run.finished
        else '<span class="pill open">unfinished</span>'
    )
    model = run.setting("model.path")
    about = f"GRPO on {escape(str(model))}" if model else "GRPO"
    return f'<div class="head"><h1>{escape(run.name)}</h1>{state}<span class="muted">{about}</span></div>'


def _pictures(run: Run, others: Sequence[Run]) -> list[str]:
    series = series_for(run)
    sections: list[str] = []
    for group in groups_for(series):
        drawn = [_picture(panel, run, series, others) for panel in group.panels]
        sections.append(_section(group.title, f'<div class="panels">{"".join(drawn)}</div>'))
    return sections


def _picture(panel: Panel, run: Run, series: Mapping[str, np.ndarray], others: Sequence[Run]) -> str:
    """A panel of one run, or its first curve in all of them."""
    lines = lines_of(panel, run.steps.astype(float), series)
    if others and panel.kind != "stacked":
        lines = _across_runs(panel, [run, *others])
    if not lines:
        return ""
    thresholds = [
        (threshold.label, value)
        for threshold in panel.thresholds
        if (value := run.number(threshold.key)) is not None
    ]
    svg = draw(panel, lines, [value for _, value in thresholds], panel.title)
    return html.figure(panel, lines, thresholds, svg)


def _across_runs(panel: Panel, runs: Sequence[Run]) -> list[Line]:
    lines: list[Line] = []
    for index, run in enumerate(runs):
        own = lines_of(panel, run.steps.astype(float), series_for(run))
        if own:
            lines.append(Line(run.name, CYCLE[index % len(CYCLE)], own[0].steps, own[0].values))
    return lines


def _comparison(run: Run, others: Sequence[Run]) -> str:
    """Key figures and differing settings of all runs."""
    runs = [run, *others]
    header = ("", *(r.name for r in runs))
    columns = [key_figures(r).as_json() for r in runs]
    figures = [[name.replace("_", " "), *(column[name] for column in columns)] for name in columns[0]]
    flat = [_flatten(r.config) for r in runs]
    keys = sorted({key for settings in flat for key in settings})
    differing = [
        [key, *(str(s.get(key, "–")) for s in flat)]
        for key in keys
        if len({str(s.get(key)) for s in flat}) > 1
    ]
    tables = [f'<div class="card">{html.table(header, figures)}</div>']
    if differing:
        tables.append(f'<div class="card">{html.table(("setting", *header[1:]), differing)}</div>')
    return _section("Comparison", f'<div class="columns">{"".join(tables)}</div>')


def _flatten(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, object] = {}
    for key, inner in value.items():
        flat |= _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _card(text: str) -> str:
    return f'<div class="card"><pre>{escape(text.strip())}</pre></div>'


def _folded(title: str, text: str) -> str:
    return (
        f'<details class="card"><summary>{escape(title)}</summary><pre>{escape(text.strip())}</pre></details>'
    )
