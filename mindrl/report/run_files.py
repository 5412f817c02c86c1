"""Reads a run directory. Files that are missing or damaged are named, never fatal: an interrupted run has a report."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from mindrl.errors import RequestError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SampledResponse:
    """One row of a samples file; the columns are among those of `mindrl/data/sample_file.py`."""

    uid: str
    prompt: str
    response: str
    ground_truth: str
    reward: float
    response_length: int
    finish_reason: str


@dataclass(frozen=True, slots=True)
class SampleFile:
    """Sampled responses of one step."""

    step: int
    rows: Sequence[SampledResponse]


@dataclass(frozen=True, slots=True)
class Run:
    """Everything a report is made of."""

    directory: Path
    steps: npt.NDArray[np.int64]
    """[num_steps] ascending; of a step that stands in the file twice, the later one."""
    series: Mapping[str, Floats]
    """Metric name -> [num_steps], NaN where a step has no value."""
    not_finite: Mapping[str, Sequence[int]]
    """Metric name -> steps at which it was written as null."""
    config_text: str
    config: Mapping[str, object]
    hal_text: str
    summary: Mapping[str, object]
    samples: Sequence[SampleFile]
    """The first and the last one written; one or none when there are no more."""
    evaluations: Sequence[Mapping[str, object]]
    """One mapping per model of every eval*.json (`mindrl eval --output`), in order."""
    problems: Sequence[str]
    """One sentence per file that is missing or damaged."""

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.directory.resolve().name

    @property
    def finished(self) -> bool:
        """Whether the run came to its end, where it writes summary.json."""
        return bool(self.summary)

    def number(self, dotted: str) -> float | None:
        """A configuration value as a number; None when it is not one. (YAML reads `1e-5` as text.)"""
        try:
            return float(str(self.setting(dotted)))
        except ValueError:
            return None

    def setting(self, dotted: str) -> object | None:
        """A configuration value by its key, such as `rollout.logprob_gap_stop`; None when it isn't there."""
        value: object = self.config
        for key in dotted.split("."):
            if not isinstance(value, Mapping):
                return None
            value = value.get(key)
        return value


def read_run(directory: Path) -> Run:
    """`RequestError` when the directory is not there, or holds none of a run's files."""
    if not directory.is_dir():
        raise RequestError(f"{directory} is not a directory; give the run directory (`trainer.output_dir`)")
    known = ("metrics.jsonl", "config.yaml", "summary.json")
    if not any((directory / name).exists() for name in known):
        raise RequestError(f"{directory} holds no run: none of {', '.join(known)} is in it")
    problems: list[str] = []
    steps, series, not_finite = _read_metrics(directory / "metrics.jsonl", problems)
    config_text = _read_text(directory / "config.yaml", "the configuration is not shown", problems)
    return Run(
        directory=directory,
        steps=steps,
        series=series,
        not_finite=not_finite,
        config_text=config_text,
        config=_parse_config(config_text, problems),
        hal_text=_read_text(directory / "hal.txt", "device and kernels are not shown", problems),
        summary=_read_json(directory / "summary.json", "the run has not ended, or was interrupted", problems),
        samples=_read_samples(directory / "samples", problems),
        evaluations=_read_evaluations(directory, problems),
        problems=problems,
    )


def _read_text(path: Path, consequence: str, problems: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        problems.append(f"{path.name} is missing: {consequence}.")
    except OSError as error:
        problems.append(f"{path.name} can't be read ({error.strerror}): {consequence}.")
    return ""


def _read_json(path: Path, consequence: str, problems: list[str]) -> Mapping[str, object]:
    text = _read_text(path, consequence, problems)
    if not text:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        problems.append(f"{path.name} is not valid JSON ({error}): it is left out.")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path.name} holds no JSON object: it is left out.")
        return {}
    return value


def _parse_config(text: str, problems: list[str]) -> Mapping[str, object]:
    try:
        value = yaml.safe_load(text) if text else {}
    except yaml.YAMLError as error:
        problems.append(f"config.yaml is not valid YAML ({error}): thresholds are not drawn.")
        return {}
    return value if isinstance(value, dict) else {}


def _read_metrics(
    path: Path, problems: list[str]
) -> tuple[npt.NDArray[np.int64], dict[str, Floats], dict[str, list[int]]]:
    """Steps, series and the steps at which a metric was null."""
    rows: dict[int, dict[str, float | None]] = {}
    damaged = 0
    for line in _read_text(path, "there are no curves", problems).splitlines():
        try:
            row = json.loads(line)
            rows[int(np.int64(row.pop("step")))] = row
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
            damaged += 1
    if damaged:
        problems.append(
            f"{path.name} has {damaged} unreadable line(s), as a run leaves that was killed while writing."
        )
    steps = sorted(rows)
    names = sorted({name for row in rows.values() for name in row})
    series = {name: np.array([_number(rows[step].get(name)) for step in steps]) for name in names}
    not_finite = {
        name: nulls
        for name in names
        if (nulls := [step for step in steps if name in rows[step] and math.isnan(_number(rows[step][name]))])
    }
    return np.array(steps, dtype=np.int64), series, not_finite


def _number(value: object) -> float:
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:  # an integer of hundreds of digits
        return math.nan
    return number if math.isfinite(number) else math.nan


def _read_samples(directory: Path, problems: list[str]) -> list[SampleFile]:
    files = sorted(directory.glob("step_*.parquet"))
    if not files:
        problems.append("samples/ holds no step_*.parquet: no sampled responses are shown.")
    kept = files if len(files) < 2 else [files[0], files[-1]]
    return [sample for path in kept if (sample := _read_sample_file(path, problems)) is not None]


def _read_sample_file(path: Path, problems: list[str]) -> SampleFile | None:
    columns = list(SampledResponse.__dataclass_fields__)
    try:
        table = pq.read_table(path, columns=["step", *columns])
    except (pa.ArrowException, OSError) as error:
        problems.append(f"samples/{path.name} can't be read ({error}).")
        return None
    rows = table.to_pylist()
    if not rows:
        problems.append(f"samples/{path.name} has no rows.")
        return None
    if any(value is None for row in rows for value in row.values()):
        problems.append(f"samples/{path.name} has rows that lack a value: it is left out.")
        return None
    return SampleFile(
        rows[0]["step"], [SampledResponse(**{name: row[name] for name in columns}) for row in rows]
    )


def _read_evaluations(directory: Path, problems: list[str]) -> list[Mapping[str, object]]:
    found: list[Mapping[str, object]] = []
    for path in sorted(directory.glob("eval*.json")):
        results = _read_json(path, "", problems).get("results")
        if isinstance(results, list):
            found.extend(result for result in results if isinstance(result, dict))
        else:
            problems.append(f"{path.name} has no list of results, as `mindrl eval --output` writes.")
    return found
