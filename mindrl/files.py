"""Files that users name: read, or found writable, with a refusal that says what is wrong with them."""

import json
import tempfile
from pathlib import Path
from typing import Any

from mindrl.errors import RequestError

PROBE_BYTES = 1 << 16
POINTER_REASON = (
    "is a pointer of Git LFS, not the file itself: it was cloned without LFS. Fetch it with `git lfs pull`."
)


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; `RequestError` where the file can't be read or holds anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path} can't be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        reason = POINTER_REASON if is_pointer(path) else f"is not valid JSON: {error}."
        raise RequestError(f"{path} {reason}") from error
    if not isinstance(value, dict):
        raise RequestError(f"{path} holds a {type(value).__name__}, expected an object.")
    return value


def is_pointer(path: Path) -> bool:
    """Whether a file is what Git leaves in a large file's place where LFS is not installed."""
    with path.open("rb") as file:
        return file.read(40).startswith(b"version https://git-lfs")


def require_path(path: Path, what: str) -> None:
    """`RequestError` for what no file can be called: a name too long, or one with a null byte."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RequestError(f"{what} {str(path)!r}: {reason}; name another path") from error


def require_place_for(path: Path, what: str) -> None:
    """`RequestError` unless `path` could be created or replaced: asked before the work, so that none is lost.

    `what` names the request, such as `--output`. A nameless file is written and goes at once: whether there is room
    is known only then."""
    require_path(path, what)
    place = path.absolute()
    while not place.exists():
        if place.is_symlink():
            raise RequestError(f"{what} {path}: {place} is a link that leads nowhere; name another path")
        place = place.parent
    if place == path.absolute():
        place = place.parent
    if not place.is_dir():
        raise RequestError(f"{what} {path}: {place} is not a directory; name another path")
    try:
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(bytes(PROBE_BYTES))
    except OSError as error:
        raise RequestError(
            f"{what} {path}: {place} can't be written to: {error.strerror}; make room there or change its "
            "permissions, or name another path"
        ) from error
