"""A result that is being made: a directory beside its place, which an interrupted or shared conversion goes on with.

.<name>.partial/conversion.json    what is being converted: another conversion does not go on here
.<name>.partial/notes/<file>.json  a file that is complete and on the disk, with its checksums
.<name>.partial/result/            what is renamed to <name> in the end
.<name>.partial/lock               held while a process works here

Files are the unit: each is written by one process, noted when it has reached the disk, and never written again.
"""

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mindrl.checkpoint.byte_plan import OutputFile
from mindrl.checkpoint.conversion.identity import difference
from mindrl.checkpoint.directories import put_on_disk
from mindrl.errors import RequestError
from mindrl.files import read_json_object

SECONDS_TO_LEAVE = 60.0
"""How long the one who joins waits for others to leave."""
_LOCK = "lock"
_IDENTITY = "conversion.json"
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""What file systems without locks say."""


class PartialResult:
    """The partial directory of one target, locked while this object is open."""

    def __init__(self, target: Path, identity: Mapping[str, Any], *, alone: bool) -> None:
        """Open or create it. `identity` says by what the content is decided: where it is as before, files that are
        complete stay. `alone`: no other process may work here, and what another conversion has left is removed.

        `RequestError` where another process is in the way, or (not `alone`) another conversion's files are."""
        self.target = target
        self.path = target.parent / f".{target.name}.partial"
        self.result = self.path / "result"
        self._notes = self.path / "notes"
        self._replaced = target.parent / f".{target.name}.replaced"
        self.restarted: str | None = None
        """Why files that were found are not gone on with."""
        self.restored = False
        """The target was not in its place: a kill between two renames had left it aside."""
        target.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked(alone)
        try:
            self._settle(identity, alone)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others work here."""
        os.close(self._lock)

    def is_done(self, file: OutputFile, folder: Path) -> bool:
        """Whether the file is complete, by its note and its size."""
        path = folder / file.name
        return self._note(file.name).exists() and path.exists() and path.stat().st_size == file.size

    def note_done(self, file: OutputFile, content: Mapping[str, Any]) -> None:
        """Remember that a file is complete; call it when the file has reached the disk."""
        _write_durably(self._note(file.name), content)

    def notes(self, files: Sequence[OutputFile]) -> dict[str, Any]:
        """What was noted of every file, by name."""
        return {file.name: read_json_object(self._note(file.name)) for file in files}

    def has_notes(self) -> bool:
        """Whether any file is complete."""
        return any(self._notes.glob("[!.]*"))

    def take_alone(self, *, without_locks: bool) -> bool:
        """Wait until no other process works here, for a while; whether that came to be. None will until `close`.

        Call it when every file is complete: then whoever is still here is about to leave, or to join.
        `without_locks`: the answer where the file system has none, so that nobody can tell."""
        deadline = time.monotonic() + SECONDS_TO_LEAVE
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gives the shared lock up, had or not
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.05)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                return without_locks
            else:
                return True

    @property
    def is_gone(self) -> bool:
        """Whether another process has published the result meanwhile."""
        return os.fstat(self._lock).st_nlink == 0

    def publish(self) -> None:
        """Make the result appear at the target, in place of what was there, and end."""
        for folder in (path for path in self.result.rglob("*") if path.is_dir()):
            put_on_disk(folder)
        put_on_disk(self.result)
        replaces = self.target.exists()
        if replaces and self._replaced.exists():
            raise RequestError(
                f"{self._replaced} is in the way of replacing {self.target}: move it away, and run the same command again."
            )
        if replaces:
            self.target.rename(self._replaced)
        self.result.rename(self.target)
        _sync_names(self.target.parent)
        if replaces:
            shutil.rmtree(self._replaced, ignore_errors=True)
        self.discard()

    def discard(self) -> None:
        """Remove everything that is not at the target."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _note(self, name: str) -> Path:
        return self._notes / f"{name}.json"

    def _settle(self, identity: Mapping[str, Any], alone: bool) -> None:
        """Go on with what is there if it is of this conversion."""
        found = self._found_identity()
        if self._replaced.exists() and not self.target.exists():  # a kill between two renames
            self._replaced.rename(self.target)
            self.restored = True
        elif self._replaced.exists() and found is not None:  # a kill after them
            shutil.rmtree(self._replaced)
        if found is not None and found != identity:
            self.restarted = difference(found, identity)
            if not alone:
                raise RequestError(
                    f"{self.path} holds the files of another conversion ({self.restarted}): all shards have to be of "
                    "one. Give all of them the same flags and the same source, or delete that directory."
                )
            self._empty()
            found = None
        self.result.mkdir(exist_ok=True)
        self._notes.mkdir(exist_ok=True)
        if found is None:
            self._write_identity(identity)

    def _found_identity(self) -> dict[str, Any] | None:
        path = self.path / _IDENTITY
        return read_json_object(path) if path.exists() else None

    def _write_identity(self, identity: Mapping[str, Any]) -> None:
        """Several processes may start at once: the first one's stands, and the others' has to be the same."""
        mine = self.path / f"{_IDENTITY}.{os.uname().nodename}.{os.getpid()}"
        _write_durably(mine, identity)
        try:
            os.link(mine, self.path / _IDENTITY)
        except FileExistsError:
            if self._found_identity() != identity:
                raise RequestError(
                    f"{self.path}: another conversion has started there just now. Give all shards the same flags."
                ) from None
        finally:
            mine.unlink()

    def _empty(self) -> None:
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()

    def _locked(self, alone: bool) -> int:
        """Descriptor of the lock: of this process alone, or shared with other shards."""
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        while True:
            self._make_directory()
            self._require_ours()
            try:
                descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:
                continue  # whoever was here has just finished
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise RequestError(
                    f"Another `mindrl convert` is making {self.target} (in {self.path}): wait until it ends."
                ) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    os.close(descriptor)
                    raise
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)  # it finished between the two steps, and this lock is of what it deleted

    def _make_directory(self) -> None:
        try:
            self.path.mkdir(exist_ok=True)
        except FileExistsError:
            raise RequestError(
                f"{self.path} is in the way and no directory: move it away, or choose another --save-dir."
            ) from None

    def _require_ours(self) -> None:
        names = {path.name for path in self.path.iterdir()}
        if names and _LOCK not in names:
            raise RequestError(
                f"{self.path} is in the way and not of a conversion: move it away, or choose another --save-dir."
            )


def write_lock(descriptor: int, path: Path) -> None:
    """Have an output file for this process alone, until it is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RequestError(
            f"{path} is being written by another `mindrl convert`: was the same shard started twice?"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _sync_names(directory: Path) -> None:
    """Bring a directory's names to the disk, and nothing of what they stand for."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_durably(path: Path, content: object) -> None:
    """Write a small file that is there completely or not at all, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
