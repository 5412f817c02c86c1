"""The numbers of a run: appended to metrics.jsonl step by step, and sent to TensorBoard and W&B."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from mindrl.config.trainer import LoggingConfig
from mindrl.trainer.metric_names import check_name
from mindrl.trainer.sinks import Sink, TensorBoardSink, WandbSink, wandb_settings


class MetricLog:
    """metrics.jsonl of a run directory, and the sinks its configuration asks for.

    A file that is already there is continued."""

    def __init__(
        self,
        run_dir: Path,
        logging: LoggingConfig,
        run_name: str,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`RequestError` when W&B is asked for and can't be served (see `wandb_settings`)."""
        wandb = wandb_settings(logging, environ)
        run_dir.mkdir(parents=True, exist_ok=True)
        self._file = (run_dir / "metrics.jsonl").open("a", encoding="utf-8")
        self._sinks: list[Sink] = []
        if logging.tensorboard:
            self._sinks.append(TensorBoardSink(run_dir / "logs" / "tensorboard"))
        if wandb is not None:
            self._sinks.append(WandbSink(wandb, run_dir / "logs", run_name))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one step. A value that is not finite is written as null. `ValueError` for an unknown name."""
        for name in metrics:
            check_name(name)
        values = {name: float(value) for name, value in metrics.items()}
        row = {"step": step} | {
            name: value if math.isfinite(value) else None for name, value in values.items()
        }
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()  # a run that is killed keeps every step it finished
        for sink in self._sinks:
            sink.write(step, values)

    def close(self) -> None:
        """Close the file and every sink."""
        self._file.close()
        for sink in self._sinks:
            sink.close()
        self._sinks.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
