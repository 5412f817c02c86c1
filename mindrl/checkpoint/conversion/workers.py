"""Threads that write output files: reading, writing and checksums run outside Python's lock.

Workers share the records of one file after another. Whoever completes a file brings it to the disk and notes it, while
the others are at the next one.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mindrl.checkpoint.byte_plan import OutputFile, Record
from mindrl.checkpoint.conversion.copying import (
    PIECE_BYTES,
    SourceFiles,
    TargetFile,
    side_by_side,
    write_group,
)
from mindrl.checkpoint.conversion.manifest import FileNote, file_note
from mindrl.checkpoint.conversion.partial import PartialResult, write_lock
from mindrl.checkpoint.conversion.source_checksums import CheckedSources

MOST_WORKERS = 16
"""More gain nothing: the disk is the limit long before."""
PIECES_PER_WORKER = 5
"""Buffers of `PIECE_BYTES` that a worker holds at most: what it reads (twice as long in float32), what it
writes, and two while types are converted."""


def default_workers() -> int:
    """One per core that this process may use, within reason."""
    return min(len(os.sched_getaffinity(0)), MOST_WORKERS)


def worker_bytes(workers: int) -> int:
    """Memory that so many workers take at most."""
    return workers * PIECES_PER_WORKER * PIECE_BYTES


class Copier:
    """Writes files into a partial result, and counts."""

    def __init__(
        self, partial: PartialResult, folder: Path, advance: Callable[[int], object], *, allow_nan: bool
    ) -> None:
        """`advance` hears of payload bytes written."""
        self._partial, self._folder, self._advance = partial, folder, advance
        self._sources = SourceFiles(allow_nan=allow_nan)
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        self._stop = threading.Event()
        self._open: list[_OpenFile] = []
        self.bytes_written = 0
        """Of complete files."""

    @property
    def bytes_read(self) -> int:
        """Out of source files."""
        return self._sources.bytes_read

    def run(self, files: Sequence[OutputFile], workers: int) -> None:
        """Write files; returns when all are on the disk and noted."""
        tasks = self._tasks(files)
        try:
            with ThreadPoolExecutor(workers, thread_name_prefix="convert") as pool:
                try:
                    for running in [pool.submit(self._work, tasks) for _ in range(workers)]:
                        running.result()
                finally:
                    self._stop.set()  # after a failure, or Ctrl-C here, the others end at their next piece
        finally:
            for file in self._open:
                file.close()
            self._sources.close()

    def _tasks(self, files: Sequence[OutputFile]) -> "Iterator[tuple[_OpenFile, list[Record]]]":
        """Groups of records, with files opened as their turn comes."""
        for plan in files:
            groups = list(side_by_side(plan.records))
            file = _OpenFile(plan, self._folder / plan.name, len(groups), CheckedSources(self._sources))
            self._open.append(file)
            file.begin()
            if not groups:
                self._finish(file)
            yield from ((file, group) for group in groups)

    def _work(self, tasks: "Iterator[tuple[_OpenFile, list[Record]]]") -> None:
        completed = False
        try:
            while not self._stop.is_set():
                with self._turn:
                    task = next(tasks, None)
                if task is None:
                    break
                self._write(*task)
            completed = True
        finally:
            if not completed:
                self._stop.set()

    def _write(self, file: "_OpenFile", group: list[Record]) -> None:
        crcs = [0] * len(group)
        for num_bytes, crcs in write_group(file.target, group, file.sources):  # noqa: B007 (the last ones count)
            if self._stop.is_set():
                return
            with self._turn:
                self._advance(num_bytes)
        with self._turn:
            complete = file.add(group, crcs)
        if complete:
            self._finish(file)

    def _finish(self, file: "_OpenFile") -> None:
        self._partial.note_done(file.plan, file.finish())
        with self._counting:
            self.bytes_written += file.plan.size
            self._open.remove(file)
        file.close()


class _OpenFile:
    """An output file that workers write into, and the checksums of what is in it and of what it is made of."""

    def __init__(self, plan: OutputFile, path: Path, num_groups: int, sources: CheckedSources) -> None:
        self.plan = plan
        self.sources = sources
        self._path = path
        self._groups_left = num_groups
        self._crcs: dict[str, int] = {}
        self.target = TargetFile(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))

    def begin(self) -> None:
        """Forget what an interrupted process has left in it; write what is not copied."""
        write_lock(self.target.descriptor, self._path)
        os.ftruncate(self.target.descriptor, 0)
        for offset, data in self.plan.literals:
            self.target.write(data, offset)

    def add(self, group: Sequence[Record], crcs: Sequence[int]) -> bool:
        """Note the checksums of records that are written; whether these were the last."""
        self._crcs.update((record.name, crc) for record, crc in zip(group, crcs, strict=True))
        self._groups_left -= 1
        return self._groups_left == 0

    def finish(self) -> FileNote:
        """Bring the file to the disk; what is in it. `RequestError` if its sources are damaged."""
        self.sources.require_intact(self.plan.records)
        os.fsync(self.target.descriptor)
        return file_note(self.plan, self._crcs)

    def close(self) -> None:
        """Let go of the file, complete or not."""
        os.close(self.target.descriptor)
