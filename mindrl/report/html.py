"""The parts of the page: tiles, figures, samples, tables. Text from a run's files is always escaped."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from mindrl.report.figures import Line
from mindrl.report.key_figures import KeyFigures, duration, short
from mindrl.report.panels import Panel
from mindrl.report.run_files import Run, SampledResponse, SampleFile

LONGEST_TEXT = 2000
"""Characters of one prompt or response that are shown."""
SHOWN_SAMPLES = 6
MOST_SAMPLES = 24
LONGEST_LIST = 8


def tiles(figures: KeyFigures) -> str:
    """The figures a run is judged by."""
    arrow = " <i>→</i> "
    unfinished = figures.total_steps is not None and figures.steps < figures.total_steps
    of_total = f" <i>of {figures.total_steps:,}</i>" if unfinished else ""
    world = f" <i>×</i> {figures.world_size}" if figures.world_size else ""
    entries = [
        ("Reward", short(figures.reward_first) + arrow + short(figures.reward_last)),
        ("Accuracy", short(figures.eval_before) + arrow + short(figures.eval_after)),
        ("Max log-prob gap", short(figures.max_logprob_gap)),
        ("Steps", f"{figures.steps:,}{of_total}"),
        ("Time", duration(figures.seconds)),
        ("Tokens per second", short(figures.tokens_per_second)),
        ("Device", escape(figures.device or "–") + world),
    ]
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile"><span class="muted">{name}</span><b>{value}</b></div>'
            for name, value in entries
        )
        + "</div>"
    )


def figure(panel: Panel, lines: Sequence[Line], thresholds: Sequence[tuple[str, float]], svg: str) -> str:
    """One picture with its title, caption and legend: newest values, and thresholds from the configuration."""
    legend = "".join(
        f'<span><span class="dot" style="background: var(--{line.colour})"></span>{escape(line.label)} '
        f'<span class="muted">{short(_newest(line))}</span></span>'
        for line in lines
    )
    legend += "".join(
        f'<span><span class="dash"></span>{label} <span class="muted">{short(value)}</span></span>'
        for label, value in thresholds
    )
    return (
        f"<figure><h3>{escape(panel.title)}</h3><figcaption>{escape(panel.caption)}</figcaption>"
        f'<div class="legend">{legend}</div>{svg}</figure>'
    )


def _newest(line: Line) -> float:
    return float(line.values[np.isfinite(line.values)][-1])


def notes(run: Run) -> str:
    """Missing files, and metrics that were not finite."""
    broken = [f"{name} was not finite at {_listed(steps)}." for name, steps in run.not_finite.items()]
    if not run.problems and not broken:
        return ""
    return (
        '<ul class="card notes">'
        + "".join(f"<li>{escape(n)}</li>" for n in [*run.problems, *broken])
        + "</ul>"
    )


def _listed(steps: Sequence[int]) -> str:
    shown = ", ".join(str(step) for step in steps[:LONGEST_LIST])
    more = f" and {len(steps) - LONGEST_LIST} more" if len(steps) > LONGEST_LIST else ""
    return f"step{'s' if len(steps) > 1 else ''} {shown}{more}"


def samples(files: Sequence[SampleFile]) -> str:
    """Sampled responses of the first and the last file, side by side."""
    return '<div class="columns">' + "".join(_sample_card(file) for file in files) + "</div>"


def _sample_card(file: SampleFile) -> str:
    chosen = _spread(file.rows)
    first, rest = chosen[:SHOWN_SAMPLES], chosen[SHOWN_SAMPLES:]
    mean = sum(row.reward for row in file.rows) / len(file.rows)
    more = (
        f"<details><summary>{len(rest)} more</summary><div>{''.join(map(_sample, rest))}</div></details>"
        if rest
        else ""
    )
    return (
        f'<div class="card"><div class="head"><h3>Step {file.step:,}</h3><span class="muted">{len(file.rows)} '
        f"responses, mean reward {short(mean)}</span></div>{''.join(map(_sample, first))}{more}</div>"
    )


def _spread(rows: Sequence[SampledResponse]) -> list[SampledResponse]:
    """Responses to as many different prompts as there are, first one each, then the second ones, ..."""
    seen: dict[str, int] = {}
    ranked: list[tuple[int, int]] = []
    for index, row in enumerate(rows):
        ranked.append((seen.get(row.uid, 0), index))
        seen[row.uid] = seen.get(row.uid, 0) + 1
    return [rows[index] for _, index in sorted(ranked)[:MOST_SAMPLES]]


def _sample(row: SampledResponse) -> str:
    shade = "done" if row.reward > 0 else "bad"
    return (
        f'<div class="sample"><span class="text prompt">{_text(row.prompt)}</span>'
        f'<span class="text">{_text(row.response)}</span><div class="facts">'
        f'<b class="{shade}">reward {short(row.reward)}</b><span>truth <code>{_text(row.ground_truth)}</code></span>'
        f"<span>{row.response_length} tokens</span><span>{escape(row.finish_reason)}</span></div></div>"
    )


def _text(text: str) -> str:
    """Escaped, and cut where it is very long."""
    if len(text) <= LONGEST_TEXT:
        return escape(text)
    return f"{escape(text[:LONGEST_TEXT])} … ({len(text) - LONGEST_TEXT:,} more characters)"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of escaped texts; numbers stand to the right."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: object) -> str:
    if isinstance(value, float) or value is None:
        return f"<td>{short(value)}</td>"
    return f'<td class="{"text" if isinstance(value, str) else ""}">{_text(str(value))}</td>'


def evaluations(found: Sequence[Mapping[str, object]]) -> str:
    """Figures of each evaluated model; with several, their answers to the same prompts beside each other."""
    rows: list[list[object]] = []
    for evaluation in found:
        overall = evaluation.get("overall")
        figures = overall if isinstance(overall, Mapping) else {}
        texts = [
            f"{name.replace('_at_', '@')} {short(v)}"
            for name, v in figures.items()
            if isinstance(v, float) and "_at_" in name
        ]
        length, cut = figures.get("response_length"), figures.get("truncated_fraction")
        rows.append([str(evaluation.get("model")), ", ".join(texts), figures.get("num_prompts"), length, cut])
    header = ("model", "result", "prompts", "mean length", "truncated")
    return f'<div class="card">{table(header, rows)}</div>{_same_prompts(found)}'


def _same_prompts(found: Sequence[Mapping[str, object]]) -> str:
    """Answers of the first and last model to the prompts that both files quote."""
    if len(found) < 2:
        return ""
    before, after = (_answers(found[0]), _answers(found[-1]))
    rows = [
        (answer.get("prompt"), answer.get("ground_truth"), *_response(answer), *_response(after[uid]))
        for uid, answer in before.items()
        if uid in after
    ]
    if not rows:
        return ""
    header = ("prompt", "truth", "before", "score", "after", "score")
    return f'<details class="card" open><summary>The same prompts before and after</summary>{table(header, rows)}</details>'


def _answers(evaluation: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    answers = evaluation.get("answers")
    if not isinstance(answers, list):
        return {}
    first: dict[str, Mapping[str, object]] = {}
    for answer in answers:
        if isinstance(answer, Mapping):
            first.setdefault(str(answer.get("uid")), answer)
    return dict(list(first.items())[:12])


def _response(answer: Mapping[str, object]) -> tuple[object, object]:
    return answer.get("response"), answer.get("score")


def document(title: str, style: str, body: str) -> str:
    """The whole page."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{style}</style></head><body><main>{body}</main></body></html>\n"
    )
