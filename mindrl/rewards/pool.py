"""Scores responses in processes that can be killed.

A rule reward can hang (`9^{9^{9}}` given to a computer algebra system) or take its process down. So each response is
scored in a separate process under a time limit; a process that hangs or dies is replaced, and only the response it
was working on loses its score.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from types import TracebackType
from typing import Self

from mindrl.errors import RequestError
from mindrl.rewards.protocol import RewardItem, Scored
from mindrl.rewards.registry import find
from mindrl.rewards.scoring_process import Loss, ScoringProcess

CHUNKS_PER_PROCESS = 4
"""Into how many chunks a process's share is cut: few, so that messages are; several, so that none ends late."""


@dataclass(frozen=True, slots=True)
class RewardOutcome:
    """Score of one response."""

    score: float
    """Weighted sum of the functions' scores. A response that timed out or crashed a function scores 0, or as
    little as the worst response of the same call where that is less."""
    by_function: Mapping[str, float]
    """Unweighted score per function; 0 where it gave none."""
    reasons: Mapping[str, float] = field(default_factory=dict[str, float])
    """Parts of the scores, `<function>/<part>`."""
    timed_out: bool = False
    crashed: bool = False


class RewardPool:
    """A fixed number of scoring processes, started at once in the background. Use it from one thread."""

    def __init__(
        self, functions: Sequence[tuple[str, float]], *, timeout_seconds: float, workers: int = 1
    ) -> None:
        """`functions` are (name, weight); `timeout_seconds` is the time one response may take.

        Raises `RequestError` for an unknown name, or one given twice."""
        names = [name for name, _ in functions]
        if len(set(names)) < len(names):
            raise RequestError(f"reward functions {', '.join(names)}: each may be named once")
        for name in names:
            find(name)
        self._functions = tuple(functions)
        self._processes = [ScoringProcess(names, timeout_seconds) for _ in range(workers)]

    def score(self, items: Sequence[RewardItem]) -> list[RewardOutcome]:
        """One outcome an item, in order. `RuntimeError` if the functions can't be imported in the processes."""
        call = _Call(items, num_chunks=len(self._processes) * CHUNKS_PER_PROCESS)
        while not call.is_complete:
            self._hand_out(call)
            self._wait()
            for process in self._processes:
                call.scored.update({answer.index: answer for answer in process.take_answers()})
                if loss := process.loss():
                    call.note(loss, process.unanswered)
                    process.restart()
        return call.outcomes(self._functions)

    def close(self) -> None:
        """Kill the processes."""
        for process in self._processes:
            process.close()
        self._processes = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hand_out(self, call: "_Call") -> None:
        for process in self._processes:
            if call.waiting and process.is_free and process.give(call.waiting[0]):
                call.waiting.popleft()

    def _wait(self) -> None:
        """Until a process says something or dies, or the first deadline has passed."""
        deadlines = [process.deadline for process in self._processes if process.deadline is not None]
        left = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        wait([process.channel for process in self._processes], timeout=left)


class _Call:
    """What became of the items of one call."""

    def __init__(self, items: Sequence[RewardItem], num_chunks: int) -> None:
        self._numbered = list(enumerate(items))
        size = max(1, len(items) // num_chunks)
        self.waiting = deque(self._numbered[start : start + size] for start in range(0, len(items), size))
        self.scored: dict[int, Scored] = {}
        self.lost: dict[int, Loss] = {}

    @property
    def is_complete(self) -> bool:
        return len(self.scored) + len(self.lost) == len(self._numbered)

    def note(self, loss: Loss, unanswered: Sequence[int]) -> None:
        """The first of the unanswered items is lost; the others wait for another process."""
        if not unanswered:  # it died while it had nothing to do
            return
        index, *others = unanswered
        self.lost[index] = loss
        if others:
            self.waiting.appendleft([self._numbered[other] for other in others])

    def outcomes(self, functions: Sequence[tuple[str, float]]) -> list[RewardOutcome]:
        totals = {
            index: sum(
                weight * value for (_, weight), value in zip(functions, answer.by_function, strict=True)
            )
            for index, answer in self.scored.items()
            if not answer.crashed
        }
        worst = min(0.0, *totals.values()) if totals else 0.0
        nothing = Scored(index=-1, by_function=(0.0,) * len(functions), reasons={}, crashed=False)
        outcomes: list[RewardOutcome] = []
        for index, _ in self._numbered:
            answer = self.scored.get(index, nothing)
            outcomes.append(
                RewardOutcome(
                    score=totals.get(index, worst),
                    by_function={
                        name: value for (name, _), value in zip(functions, answer.by_function, strict=True)
                    },
                    reasons=answer.reasons,
                    timed_out=self.lost.get(index) == "timed_out",
                    crashed=answer.crashed or self.lost.get(index) == "crashed",
                )
            )
        return outcomes
