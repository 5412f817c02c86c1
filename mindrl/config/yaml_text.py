"""Reading yaml, and saying in one sentence where and why it can't be read or resolved."""

import difflib
import re
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from mindrl.errors import RequestError

_UNSET = re.compile(r"Environment variable '(.+?)' not found")
_ABSENT = re.compile(r"Interpolation key '(.+?)' not found")


def read_tree(path: Path, what: str = "") -> dict[str, Any]:
    """The mapping in a yaml file, interpolations unresolved; `RequestError` names the place of a fault.

    `what` says where the path comes from, such as `run.yaml: defaults: `."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise RequestError(
            f"{what}{path}: can't read this configuration file: {reason}{_near(path)}"
        ) from error
    try:
        tree = OmegaConf.create(text)
    except MarkedYAMLError as error:
        raise RequestError(_fault(path, text, error)) from error
    except RecursionError as error:
        raise RequestError(f"{path}: not valid yaml: nested too deeply") from error
    except (YAMLError, OmegaConfBaseException) as error:
        raise RequestError(f"{path}: not valid yaml: {_first_line(error)}") from error
    if isinstance(tree, ListConfig):
        raise RequestError(f"{path}: found a list, expected sections such as `actor:` and `rollout:`")
    return cast(dict[str, Any], OmegaConf.to_container(tree))


def read_value(text: str) -> Any:
    """A value as it would be read from a yaml file, interpolations unresolved; `ValueError` says what is wrong."""
    try:
        tree = OmegaConf.from_dotlist([f"value={text}"])
        return cast(dict[str, Any], OmegaConf.to_container(tree))["value"]
    except MarkedYAMLError as error:
        raise ValueError(f"not valid yaml: {_problem(error)}") from error
    except (YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"not valid yaml: {_first_line(error)}") from error


def resolved(tree: DictConfig, path: Path) -> dict[str, Any]:
    """The tree with every `${...}` replaced by what it stands for."""
    try:
        container = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError) as error:
        key = getattr(error, "full_key", None)
        raise RequestError(f"{path}: {f'{key}: ' if key else ''}{_unresolved(error)}") from error
    return cast(dict[str, Any], container)


def _fault(path: Path, text: str, error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
    repeated = re.fullmatch(r"found duplicate key (.*)", error.problem or "")
    if repeated:
        return f"{place}: duplicate key: {repeated[1]} is already in this section; keep one of the two"
    lines = text.splitlines()
    if mark and mark.line < len(lines) and lines[mark.line][mark.column : mark.column + 1] == "\t":
        return f"{place}: not valid yaml: a tab; indent with spaces"
    return f"{place}: not valid yaml: {_problem(error)}"


def _problem(error: MarkedYAMLError) -> str:
    context, mark = error.context, error.context_mark
    where = f" that begins in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{error.problem or 'unreadable'}{f' ({context}{where})' if context else ''}"


def _unresolved(error: Exception) -> str:
    message = _first_line(error)
    if unset := _UNSET.search(message):
        name = unset[1]
        return f"the environment variable {name} is not set; set it, or give a default: ${{oc.env:{name},default}}"
    if absent := _ABSENT.search(message):
        return f"takes its value from {absent[1]}, and there is no such key; name one by its whole path"
    if "Recursive" in message or isinstance(error, RecursionError):
        return "takes its value from itself; give it a value"
    if message.startswith("Missing mandatory value"):
        return "holds ???, which stands for a value that is still to be given; give one, here or as key=value"
    return f"can't be resolved: {message}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _near(path: Path) -> str:
    """A hint for a file name that is almost one of its neighbours'."""
    if path.exists() or not path.parent.is_dir():
        return ""
    names = [other.name for other in path.parent.iterdir() if other.suffix in (".yaml", ".yml")]
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f"; did you mean {path.with_name(near[0])}?" if near else ""
