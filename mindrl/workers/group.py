"""Calls on all workers at once, each with a limit, and an end to all of it when one fails."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from mindrl.errors import RequestError


class WorkerError(RuntimeError):
    """A call on the workers failed: which call, which worker, why."""


class WorkerGroup:
    """Ray actors of one class that are always called together, rank by rank.

    `name` is what messages call one of them."""

    def __init__(self, actors: Sequence[Any], timeout_seconds: float, name: str = "worker") -> None:
        self._actors = list(actors)
        self._timeout_seconds = timeout_seconds
        self._name = name

    def __len__(self) -> int:
        return len(self._actors)

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """Call `method` with the same arguments on every worker; results in order of rank."""
        return self.call_each(method, [arguments] * len(self._actors))

    def call_each(self, method: str, arguments: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Call `method` with one tuple of arguments a worker; results in order of rank.

        Raises `WorkerError` as soon as one worker fails, for the others may then wait for it in a collective; and
        when the call takes longer than `cluster.worker_timeout_seconds`.
        """
        references = [
            getattr(actor, method).remote(*each) for actor, each in zip(self._actors, arguments, strict=True)
        ]
        self._wait(method, references)
        return ray.get(references)

    def kill(self) -> None:
        """End the workers' processes without asking."""
        for actor in self._actors:
            ray.kill(actor)

    def _wait(self, method: str, references: list[ray.ObjectRef]) -> None:
        rank_of = {reference: rank for rank, reference in enumerate(references)}
        deadline = time.monotonic() + self._timeout_seconds
        pending = references
        while pending:
            done, pending = ray.wait(pending, timeout=max(0.0, deadline - time.monotonic()))
            if not done:
                ranks = sorted(rank_of[reference] for reference in pending)
                raise WorkerError(
                    f"{method}: no answer from {self._name}(s) {ranks} of {len(references)} within "
                    f"{self._timeout_seconds:g} s (cluster.worker_timeout_seconds). What they printed is in the run "
                    "directory's logs/workers; a slow step needs a higher limit."
                )
            for reference in done:
                _raise_failure(method, f"{self._name} {rank_of[reference]}", reference)


def _raise_failure(method: str, who: str, reference: ray.ObjectRef) -> None:
    try:
        ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, RequestError):
            raise RequestError(str(error.cause)) from error
        # Such as a full disk: no worker's fault.
        if isinstance(error.cause, OSError) and error.cause.filename:
            raise OSError(*error.cause.args, error.cause.filename) from error
        raise WorkerError(f"{method} failed on {who}: {_innermost(error)}") from error
    except RayActorError as error:
        raise WorkerError(
            f"{method}: {who}'s process ended. {str(error).strip()} A process that vanishes without a "
            "message was most likely killed for lack of memory (see `dmesg`)."
        ) from error


def _innermost(error: RayTaskError) -> str:
    cause = error.cause if isinstance(error.cause, BaseException) else error
    return f"{type(cause).__name__}: {cause}"
