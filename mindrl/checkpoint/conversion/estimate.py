"""What a planned conversion will take: bytes to be moved, memory, time, and how it divides over hosts."""

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mindrl.checkpoint.byte_plan import ITEM_SIZES, CopyPlan, OutputFile, StoredTensor
from mindrl.checkpoint.conversion.workers import worker_bytes

ASSUMED_BYTES_PER_SECOND = 1_000_000_000
"""Bytes a host writes in a second: what estimated times are stated for."""
_DESCRIPTION_BYTES_PER_RECORD = 3000
"""Memory that checksums and the directory of the result take while they are written."""


@dataclass(frozen=True)
class Share:
    """A number of files, and what writing them takes."""

    num_files: int
    num_records: int
    bytes_to_read: int
    """Every source value that is needed, once."""
    bytes_to_write: int
    """Every byte of the files, once."""

    @property
    def lower_bound(self) -> int:
        """Bytes that any way of writing these files has to move."""
        return self.bytes_to_read + self.bytes_to_write

    @property
    def seconds(self) -> float:
        """At the assumed rate."""
        return self.bytes_to_write / ASSUMED_BYTES_PER_SECOND


@dataclass(frozen=True)
class Estimate:
    """A conversion that has been planned and proved, and not carried out."""

    num_tensors: int
    """Of the source."""
    total: Share
    shares: tuple[Share, ...]
    """Of the hosts among which the files are divided."""
    workers: int
    peak_bytes: int
    """Resident memory of a process: what it has taken to plan, and its workers' buffers, or what describes the result
    once they are gone."""
    free_bytes: int
    """Where the result goes."""
    bytes_per_second: int = ASSUMED_BYTES_PER_SECOND
    """For which times are stated."""


def estimate(plan: CopyPlan, num_shards: int, workers: int, free_bytes: int) -> Estimate:
    """Of this process, which has planned already."""
    planned = _peak_so_far()
    total = share_of(plan.files)
    return Estimate(
        len(plan.sources),
        total,
        tuple(map(share_of, shards_of(plan.files, num_shards))),
        workers,
        planned + max(worker_bytes(workers), total.num_records * _DESCRIPTION_BYTES_PER_RECORD),
        free_bytes,
    )


def _peak_so_far() -> int:
    """Resident memory of this process. (What `getrusage` says of a process includes that of the one that started it.)"""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:  # no Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def shards_of(files: Sequence[OutputFile], num_shards: int) -> tuple[tuple[OutputFile, ...], ...]:
    """The files of each host: neighbours, with as many bytes as the others' up to one file."""
    shards: list[list[OutputFile]] = [[] for _ in range(num_shards)]
    for index, file in zip(shard_indexes(files, num_shards), files, strict=True):
        shards[index].append(file)
    return tuple(map(tuple, shards))


def shard_indexes(files: Sequence[OutputFile], num_shards: int) -> list[int]:
    """Which host writes each file: the one whose part of all bytes the file's middle lies in."""
    total = sum(file.size for file in files)
    indexes: list[int] = []
    before = 0
    for file in files:
        indexes.append(min((2 * before + file.size) * num_shards // (2 * total), num_shards - 1))
        before += file.size
    return indexes


def share_of(files: Sequence[OutputFile]) -> Share:
    """What writing these files takes."""
    scales: set[StoredTensor] = set()
    to_read = 0
    for file in files:
        for record in file.records:
            if record.same_as:
                continue
            for tile in record.tiles:
                to_read += tile.num_rows * tile.num_columns * ITEM_SIZES[tile.source.dtype]
                if tile.source.scales is not None:
                    scales.add(tile.source.scales)
    return Share(
        len(files),
        sum(len(file.records) for file in files),
        to_read + sum(tensor.num_bytes for tensor in scales),
        sum(file.size for file in files),
    )
