"""Collects the numbers of a step while its stages run, and writes them when it ends."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from mindrl.trainer.metrics import MetricLog, Row
from mindrl.trainer.progress import ProgressLine

OUTSIDE_THE_STEP = ("evaluation",)


class Recorder:
    """The metrics of the current step. Stages add to it; nobody passes metrics around."""

    def __init__(
        self,
        log: MetricLog,
        progress: ProgressLine,
        *,
        total_steps: int,
        world_size: int,
        logprob_gap_warn: float,
    ) -> None:
        self._log = log
        self._progress = progress
        self._total_steps = total_steps
        self._world_size = world_size
        self._logprob_gap_warn = logprob_gap_warn
        self._metrics: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._tokens = 0
        self._started = 0.0

    def steps(self, done: int) -> Iterator[int]:
        """The steps that are left of total_steps after `done`; each ends with `write`."""
        self._progress.begin(done)
        for step in range(done + 1, self._total_steps + 1):
            self._clear()
            self._started = time.perf_counter()
            yield step

    @property
    def rows(self) -> list[Row]:
        """Metrics of every finished step, in order, each with its `step`; 0 is the evaluation before the first."""
        return self._log.rows

    def restore(self, rows: Sequence[Row]) -> None:
        """Take these as what was recorded so far."""
        self._log.restore(rows)

    def write(self, step: int) -> None:
        """End the step: write what was recorded in it."""
        seconds = time.perf_counter() - self._started
        seconds -= sum(self._seconds.pop(stage, 0.0) for stage in OUTSIDE_THE_STEP)
        self.add({"time/step": seconds} | {f"time/{stage}": spent for stage, spent in self._seconds.items()})
        rate = self._tokens / seconds
        self.add(
            {
                "throughput/tokens_per_second": rate,
                "throughput/tokens_per_second_per_device": rate / self._world_size,
            }
        )
        gap = self._metrics.get("logprob_gap/max", 0.0)
        if gap > self._logprob_gap_warn:
            self.note(
                f"step {step}: |log p_train - log p_rollout| reaches {gap:.3g}, above rollout.logprob_gap_warn "
                f"({self._logprob_gap_warn:g})"
            )
        self._log.write(step, self._metrics)
        self._progress.step(step, self._metrics)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time inside to the stage's."""
        start = time.perf_counter()
        yield
        self._seconds[stage] = self._seconds.get(stage, 0.0) + time.perf_counter() - start

    def add(self, metrics: Mapping[str, float]) -> None:
        """Metrics of the current step; a name recorded again replaces the earlier value."""
        self._metrics.update(metrics)

    def add_tokens(self, num_tokens: int) -> None:
        """Real tokens (prompts and responses, no padding) that the step worked on."""
        self._tokens += num_tokens

    def write_now(self, step: int) -> None:
        """Write what was recorded outside `steps`, such as the evaluation before the first step."""
        if self._metrics:
            self._log.write(step, self._metrics)
        self._clear()

    def note(self, text: str) -> None:
        """Tell the user something in one line."""
        self._progress.note(text)

    def _clear(self) -> None:
        self._metrics, self._seconds, self._tokens = {}, {}, 0
