"""How far a copy is: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def shown_progress(total: int, done: int, *, shown: bool) -> Generator[Callable[[int], object]]:
    """Show `done` of `total` bytes on stderr; what is yielded is to be called with the number of bytes that follow."""
    if not shown or not total:
        yield lambda _: None
    elif sys.stderr.isatty():
        with tqdm(total=total, initial=done, unit="B", unit_scale=True, desc="convert") as bar:
            yield bar.update
    else:
        lines = _Lines(total, done)
        yield lines.advance
        lines.write()


class _Lines:
    def __init__(self, total: int, done: int) -> None:
        self._total, self._done = total, done
        self._next = time.monotonic() + SECONDS_BETWEEN_LINES

    def advance(self, num_bytes: int) -> None:
        self._done += num_bytes
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + SECONDS_BETWEEN_LINES
            self.write()

    def write(self) -> None:
        share = self._done / self._total if self._total else 1.0
        print(
            f"convert: {share:.0%}, {self._done / 1e9:,.1f} of {self._total / 1e9:,.1f} GB",
            file=sys.stderr,
            flush=True,
        )
