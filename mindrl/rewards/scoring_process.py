"""The parent's side of one scoring process: starts it, gives it work, notices that it hangs or died, replaces it."""

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing import Pipe
from typing import Literal

from mindrl.rewards.protocol import READY, RewardItem, Scored

STARTUP_SECONDS = 120.0
"""A process that has not imported its functions by then is given up."""
_KILL_SECONDS = 10.0

Loss = Literal["timed_out", "crashed"]


class ScoringProcess:
    """One process at a time; `restart` replaces it."""

    def __init__(self, names: Sequence[str], timeout_seconds: float) -> None:
        """Start a process for the functions of these names and return at once."""
        self._names = tuple(names)
        self._timeout_seconds = timeout_seconds
        self._start()

    def _start(self) -> None:
        self.channel, theirs = Pipe()
        # A program of its own, not multiprocessing's spawn: that one imports the parent's main module again, which
        # inside a Ray actor is Ray's.
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mindrl.rewards.scoring_program"),
                *(str(theirs.fileno()), str(os.getpid()), *self._names),
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
            },
        )
        theirs.close()
        self.unanswered: deque[int] = deque()
        """Indices of the items it was given and has not answered, the one it is working on first."""
        self._ready = False
        self._ended = False
        self.deadline: float | None = time.monotonic() + STARTUP_SECONDS
        """`time.monotonic()` by which the next message is due; None while it has nothing to do."""

    @property
    def is_free(self) -> bool:
        """Whether it can be given work."""
        return self._ready and not self.unanswered and not self._ended and self._process.poll() is None

    def give(self, chunk: Sequence[tuple[int, RewardItem]]) -> bool:
        """Hand over numbered items; False if the process turned out to be dead, and so took none."""
        try:
            self.channel.send(chunk)
        except BrokenPipeError:
            self._ended = True
            return False
        self.unanswered.extend(index for index, _ in chunk)
        self.deadline = time.monotonic() + self._timeout_seconds
        return True

    def take_answers(self) -> list[Scored]:
        """Everything it has sent since the last call."""
        answers: list[Scored] = []
        try:
            while self.channel.poll():
                message = self.channel.recv()
                if message == READY:
                    self._ready = True
                else:
                    answers.append(message)
                    self.unanswered.popleft()
                busy = self.unanswered or not self._ready
                self.deadline = time.monotonic() + self._timeout_seconds if busy else None
        except (EOFError, ConnectionResetError):
            self._ended = True
        return answers

    def loss(self) -> Loss | None:
        """How it failed, if it did. `RuntimeError` if that was before it could score at all."""
        late = self.deadline is not None and time.monotonic() > self.deadline
        if not (self._ended or late):
            return None
        if not self._ready:
            self.close()
            what = f"was not ready after {STARTUP_SECONDS:.0f} s" if late else "ended before it was ready"
            raise RuntimeError(
                f"the scoring process for {', '.join(self._names)} {what} (exit code {self._process.returncode}); "
                "its own message is above, on stderr"
            )
        return "crashed" if self._ended else "timed_out"

    def restart(self) -> None:
        """Kill the process if it lives and start a new one."""
        self.close()
        self._start()

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait(_KILL_SECONDS)
        self.channel.close()
