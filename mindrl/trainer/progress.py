"""One line a step: a bar with the remaining time on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import TextIO

from tqdm import tqdm

SHOWN = (
    ("reward/mean", "reward {:.3f}"),
    ("response_length/mean", "length {:.1f}"),
    ("logprob_gap/max", "gap {:.1e}"),
    ("time/step", "{:.2f} s/step"),
)


class ProgressLine:
    """Shows how far a run is, how long it will take, and the four numbers to watch."""

    def __init__(self, total_steps: int, stream: TextIO = sys.stderr) -> None:
        self._total = total_steps
        self._done = 0
        self._stream = stream
        self._started = time.monotonic()
        self._bar: tqdm | None = None

    def begin(self, done: int) -> None:
        """The step after `done` starts now; what came before does not count into the remaining time."""
        self._done = done
        self._started = time.monotonic()
        if self._stream.isatty():
            self._bar = tqdm(total=self._total, initial=done, desc="training", unit="step", file=self._stream)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show a finished step."""
        figures = "  ".join(text.format(metrics[name]) for name, text in SHOWN if name in metrics)
        if self._bar is not None:
            self._bar.set_postfix_str(figures, refresh=False)
            self._bar.update(1)
            return
        per_step = (time.monotonic() - self._started) / (step - self._done)
        left = tqdm.format_interval(per_step * (self._total - step))
        print(f"step {step}/{self._total}  {figures}  {left} left", file=self._stream, flush=True)

    def note(self, text: str) -> None:
        """Print a sentence without tearing the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """End the bar's line."""
        if self._bar is not None:
            self._bar.close()
