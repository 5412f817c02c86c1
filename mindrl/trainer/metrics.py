"""The numbers of a run: appended to metrics.jsonl step by step, and sent to TensorBoard and W&B."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from mindrl.config.trainer import LoggingConfig
from mindrl.trainer.metric_names import check_name
from mindrl.trainer.sinks import Sink, TensorBoardSink, WandbSink, wandb_settings

Row = dict[str, float | None]
"""A line of metrics.jsonl: `step`, and the step's numbers by name."""


class MetricLog:
    """metrics.jsonl of a run directory, and the sinks its configuration asks for."""

    def __init__(
        self,
        run_dir: Path,
        logging: LoggingConfig,
        run_name: str,
        environ: Mapping[str, str] = os.environ,
        *,
        steps_done: int = 0,
    ) -> None:
        """Numbers that follow come after `steps_done`; sinks forget what they have of later steps, where they can.

        `RequestError` when W&B is asked for and can't be served (see `wandb_settings`)."""
        wandb = wandb_settings(logging, environ)
        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = run_dir / "metrics.jsonl"
        self._file = self._path.open("a", encoding="utf-8")
        self.rows: list[Row] = []
        """What was written, step by step; a value that is not finite is None."""
        self._sinks: list[Sink] = []
        if logging.tensorboard:
            self._sinks.append(TensorBoardSink(run_dir / "logs" / "tensorboard", steps_done))
        if wandb is not None:
            self._sinks.append(WandbSink(wandb, run_dir / "logs", run_name))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one step. A value that is not finite is written as null. `ValueError` for an unknown name."""
        for name in metrics:
            check_name(name)
        values = {name: float(value) for name, value in metrics.items()}
        row: Row = {"step": step} | {
            name: value if math.isfinite(value) else None for name, value in values.items()
        }
        self.rows.append(row)
        self._file.write(_line(row))
        self._file.flush()  # a run that is killed keeps every step it finished
        for sink in self._sinks:
            sink.write(step, values)

    def restore(self, rows: Sequence[Row]) -> None:
        """Make metrics.jsonl hold exactly these rows, whatever it held; sinks have them already."""
        self.rows = list(rows)
        partial = self._path.with_name(self._path.name + ".partial")
        partial.write_text("".join(map(_line, rows)), encoding="utf-8")
        self._file.close()
        partial.replace(self._path)
        self._file = self._path.open("a", encoding="utf-8")

    def close(self, *, failed: bool = False) -> None:
        """Close the file and every sink; `failed` says how the run ended."""
        self._file.close()
        for sink in self._sinks:
            sink.close(failed=failed)
        self._sinks.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)


def _line(row: Row) -> str:
    return json.dumps(row, allow_nan=False) + "\n"
