"""Files that users name: read, or found writable, with a refusal that says what is wrong with them."""

import json
import os
from pathlib import Path
from typing import Any

from mindrl.errors import RequestError


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; `RequestError` where the file can't be read or holds anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path} can't be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise RequestError(f"{path} holds a {type(value).__name__}, expected an object.")
    return value


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

    `what` names the request, such as `--output`. Nothing is created."""
    require_path(path, what)
    place = path.absolute().parent
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise RequestError(f"{what} {path}: {place} is not a directory; name another path")
    if not os.access(place, os.W_OK | os.X_OK):
        raise RequestError(
            f"{what} {path}: {place} can't be written to; change its permissions or name another path"
        )
