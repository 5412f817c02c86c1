"""From a plan to a result: proved, carried out file by file in a partial directory, joined, and renamed into place.

One mechanism serves an interrupted conversion, which goes on where it was, and several hosts, which each write some of
the files: the last one to end finds every file noted, and joins them.
"""

import errno
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mindrl.checkpoint.byte_plan import CopyPlan, OutputFile
from mindrl.checkpoint.conversion.estimate import Estimate, estimate, shard_indexes, shards_of, share_of
from mindrl.checkpoint.conversion.identity import identity_of, sources_of
from mindrl.checkpoint.conversion.manifest import is_note_of, is_result_of, write_manifest
from mindrl.checkpoint.conversion.partial import PartialResult
from mindrl.checkpoint.conversion.progress import shown_progress
from mindrl.checkpoint.conversion.workers import Copier, default_workers
from mindrl.checkpoint.directories import refuse_existing
from mindrl.checkpoint.plan_proof import prove
from mindrl.errors import RequestError

DESCRIPTION_BYTES = 1 << 20
"""Room for what describes the files."""
DRY_RUN_SHARDS = 4
"""Hosts that a dry run divides the work over where no number is given."""
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Job:
    """A conversion, planned completely."""

    plan: CopyPlan
    source: Path
    """What is converted."""
    target: Path
    """Where the result appears."""
    folder: str
    """Folder of the result in which the plan's files lie; "": the result itself."""
    options: Mapping[str, Any]
    """What was asked for, as JSON: together with sources and plan it decides every byte."""
    bytes_beside: int
    """Of files that `finish` copies."""
    finish: Callable[[Path], None]
    """Writes everything but the plan's files into the result; may run again after an interruption."""
    small_files: tuple[str, ...]
    """Names, in `folder`, of what `finish` writes and nobody is to change: their checksums are recorded too."""
    marker: str
    """A file that such a result has, and a stranger's directory has not."""
    overwrite: bool = False
    """Replace what is at `target`, if it has the marker."""


@dataclass(frozen=True)
class Work:
    """This process's part of a job."""

    workers: int | None = None
    """Threads; None: one per core."""
    num_shards: int = 1
    """Processes, on one host or many, that share the files."""
    shard_index: int | None = 0
    """Which of them this is, from 0; None: it writes no file, and joins those of all."""
    dry_run: bool = False
    """Only say what would be done."""
    allow_nan: bool = False
    """Copy weights that are NaN, where types stay; a conversion of types refuses them always."""


ALONE = Work()
"""All of it, at once."""


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    complete: bool
    """The result is in its place; else other shards are still to come, or it was a dry run."""
    num_bytes: int
    """Payload bytes of the whole result."""
    bytes_moved: int = 0
    """Read and written by this process."""
    lower_bound: int = 0
    """Bytes that any way of writing the same files has to move."""
    estimate: Estimate | None = None
    """Of a dry run."""
    notes: tuple[str, ...] = ()


def carry_out(job: Job, work: Work, *, progress: bool = True) -> Outcome:
    """Prove the plan, and (unless it is a dry run) write this process's files and join all if these were the last.

    `RequestError` if the target is not free, there is no room, a source can't be read or holds what can't be
    converted, or another process or conversion is in the way. An interrupted conversion keeps the files that are
    complete, and goes on with the rest when it is asked for again."""
    prove(job.plan)
    job = replace(job, target=job.target.resolve())  # not the link to it, if it is one, and with a name
    identity = identity_of(job.plan, job.source, job.options)
    alone = work.num_shards == 1 and work.shard_index is not None
    if not alone and is_result_of(job.target / job.folder, identity):
        return Outcome(True, job.plan.num_bytes, notes=(f"{job.target} is complete already.",))
    workers = work.workers or default_workers()
    if work.dry_run:
        return _foretold(job, work, workers)
    refuse_existing(job.target, job.overwrite, job.marker)
    partial = PartialResult(job.target, identity, alone=alone)
    keep = not alone or partial.restored
    try:
        if partial.restored:
            refuse_existing(job.target, job.overwrite, job.marker)
        outcome = _write_and_join(job, work, workers, partial, identity, progress)
    except OSError as error:
        keep = keep or partial.has_notes()
        raise _storage_failed(job, partial, keep, error) from error
    except KeyboardInterrupt:
        keep = keep or partial.has_notes()
        raise
    else:
        keep = True
        return outcome
    finally:
        if not keep:
            partial.discard()
        partial.close()


def _foretold(job: Job, work: Work, workers: int) -> Outcome:
    """What carrying the job out would take, and what is in the way."""
    shards = work.num_shards if work.num_shards > 1 else DRY_RUN_SHARDS
    planned = estimate(job.plan, shards, workers, _free_bytes(job.target))
    notes: tuple[str, ...] = ()
    try:
        refuse_existing(job.target, job.overwrite, job.marker)
    except RequestError as error:
        notes = (str(error),)
    return Outcome(False, job.plan.num_bytes, 0, planned.total.lower_bound, planned, notes)


def _write_and_join(
    job: Job, work: Work, workers: int, partial: PartialResult, identity: Mapping[str, Any], progress: bool
) -> Outcome:
    folder = partial.result / job.folder
    folder.mkdir(exist_ok=True)
    notes: list[str] = []
    if partial.restarted:
        notes.append(
            f"An earlier conversion to {job.target} was not finished: begun anew ({partial.restarted})."
        )
    mine: tuple[OutputFile, ...] = ()
    if work.shard_index is not None:
        mine = shards_of(job.plan.files, work.num_shards)[work.shard_index]
    left = [file for file in mine if not partial.is_done(file, folder)]
    if len(left) < len(mine):
        notes.append(f"{len(mine) - len(left)} of {len(mine)} files were complete from an earlier run.")
    if left:
        _require_room(job, partial, folder)
    total, to_do = (sum(file.num_bytes for file in files) for files in (mine, left))
    with shown_progress(total, total - to_do, shown=progress) as advance:
        copier = Copier(partial, folder, advance, allow_nan=work.allow_nan)
        copier.run(left, workers)
    _require_unchanged(job, identity)
    complete = _all_written(job, work, partial, folder, notes)
    if complete and not partial.is_gone:
        _join(job, partial, folder, identity)
    moved, bound = copier.bytes_read + copier.bytes_written, share_of(left).lower_bound
    return Outcome(complete, job.plan.num_bytes, moved, bound, notes=tuple(notes))


def _require_unchanged(job: Job, identity: Mapping[str, Any]) -> None:
    """Part of what was copied may be of before and part of after."""
    before, now = identity["sources"], sources_of(job.plan, job.source)
    if changed := [name for name in before if now.get(name) != before[name]]:
        raise RequestError(
            f"{job.source} changed while it was read ({', '.join(changed[:4])}): nothing was made of it. Convert again "
            "when nobody writes there any more."
        )


def _all_written(job: Job, work: Work, partial: PartialResult, folder: Path, notes: list[str]) -> bool:
    """Whether every file is there and no other process at work; else a note says what is missing, and who joins."""
    missing = [file for file in job.plan.files if not partial.is_done(file, folder)]
    if missing:
        told = f"{len(missing)} of {len(job.plan.files)} files are still to be written{_by_whom(job, work, missing)}"
        if work.shard_index is None:
            raise RequestError(f"{partial.path} can't be joined: {told}. Run them, then join again.")
        notes.append(
            f"{told}. Whoever ends last joins them; if nobody did, the same command with --join in place of "
            "--shard-index does."
        )
        return False
    if not partial.take_alone(without_locks=work.num_shards == 1 or work.shard_index is None):
        notes.append(
            f"Every file is written, but another process may still be at work in {partial.path}: when it has ended, join "
            "them by the same command with --join in place of --shard-index."
        )
        return False
    return True


def _join(job: Job, partial: PartialResult, folder: Path, identity: Mapping[str, Any]) -> None:
    """Complete the result, and have it appear."""
    noted = partial.notes(job.plan.files)
    for file in job.plan.files:
        if not is_note_of(noted[file.name], file):
            raise RequestError(
                f"{folder / file.name} is not as planned: delete {partial.path} and convert again."
            )
    job.finish(partial.result)
    about = {"source": str(job.source.absolute()), **identity}
    write_manifest(folder, about, noted, (name for name in job.small_files if (folder / name).exists()))
    partial.publish()


def _by_whom(job: Job, work: Work, missing: list[OutputFile]) -> str:
    if work.num_shards == 1:
        return ""
    names = {file.name for file in missing}
    owners = zip(shard_indexes(job.plan.files, work.num_shards), job.plan.files, strict=True)
    indexes = sorted({index for index, file in owners if file.name in names})
    return f" by --shard-index {', '.join(map(str, indexes))} of --num-shards {work.num_shards}"


def _require_room(job: Job, partial: PartialResult, folder: Path) -> None:
    """Look at the disk before the first byte, for what all shards have still to write; what an interrupted process has
    left will be overwritten."""
    left = [file for file in job.plan.files if not partial.is_done(file, folder)]
    needed, free = (
        sum(file.size for file in left) + job.bytes_beside + DESCRIPTION_BYTES,
        _free_bytes(partial.path),
    )
    reused = sum(path.stat().st_blocks * 512 for file in left if (path := folder / file.name).exists())
    if needed > free + reused:
        raise RequestError(
            f"--save-dir: the disk there has {free / 1e9:.3g} GB free, the result takes {needed / 1e9:.3g} GB. Make "
            "room, or choose another place."
        )


def _storage_failed(job: Job, partial: PartialResult, kept: bool, error: OSError) -> RequestError:
    """What a disk or a file said in the middle, what is left, and how to go on."""
    folder = partial.result / job.folder
    missing = sum(file.size for file in job.plan.files if not partial.is_done(file, folder))
    room = (
        f" Make room for {missing / 1e9:.3g} GB, or choose another --save-dir."
        if error.errno in _DISK_FULL
        else ""
    )
    rest = (
        f"{partial.path} holds the files that are complete: run the same command again to go on, or delete it."
        if kept
        else f"Nothing is left at {job.target}."
    )
    return RequestError(f"{error.filename or job.target}: {error.strerror}.{room} {rest}")


def _free_bytes(path: Path) -> int:
    """Of the disk where `path` is or will be."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
