"""Reading a configuration (composition, overrides, environment) and writing it back."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from mindrl.config.base import Section
from mindrl.config.explain import explain, not_this_kind
from mindrl.config.schema import Config
from mindrl.config.yaml_text import read_tree, read_value, resolved
from mindrl.errors import RequestError

AnySection = TypeVar("AnySection", bound=Section)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a yaml file, the files its `defaults:` names, and `key=value` overrides; the later wins.

    Mappings merge key by key, lists and values are replaced. `${oc.env:NAME,default}` reads the environment and
    `${other.key}` another key. Raises `RequestError` with every problem found, one a line."""
    return load_section(Config, path, overrides)


def load_section(section: type[AnySection], path: str | Path, overrides: Sequence[str] = ()) -> AnySection:
    """`load` for a file that holds another section than a run's, such as a data set's preprocessing."""
    path = Path(path)
    composed = compose(path)
    if reason := not_this_kind(composed, section):
        raise RequestError(f"{path}: {reason}")
    tree = OmegaConf.create(composed)
    for override in overrides:
        _apply(override, tree)
    try:
        return section.model_validate(resolved(tree, path))
    except ValidationError as error:
        problems = explain(error, section)
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise RequestError("\n  ".join([f"{path}: {count}", *problems])) from error


def dump(config: Config) -> str:
    """The whole configuration, defaults included, as yaml that `load` reads back to an equal one."""
    return OmegaConf.to_yaml(OmegaConf.create(_escape(config.model_dump(mode="json"))))


def compose(path: Path, opened_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Merge a file over the files that its `defaults:` names, relative to it; interpolations stay unresolved."""
    if path.resolve() in (other.resolve() for other in opened_by):
        raise RequestError(f"{path}: `defaults` leads back to this file; a file can't build on itself")
    tree = read_tree(path, f"{opened_by[-1]}: defaults: " if opened_by else "")
    defaults = tree.pop("defaults", [])
    if not isinstance(defaults, list):
        raise RequestError(f"{path}: defaults: found {defaults!r}, expected a list of files: [base.yaml]")
    composed: dict[str, Any] = {}
    for name in cast(list[object], defaults):
        if not isinstance(name, str):
            raise RequestError(
                f"{path}: defaults: found {name!r}, expected a file's name; groups are not read here"
            )
        composed = _merged(composed, compose(path.parent / name, (*opened_by, path)))
    return _merged(composed, tree)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key; anything else is replaced, so that a wrong type is told by its key."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            value = _merged(cast(dict[str, Any], below), cast(dict[str, Any], value))
        result[key] = value
    return result


def _apply(override: str, tree: DictConfig) -> None:
    key, equals, text = override.partition("=")
    if not equals or not re.fullmatch(r"[\w-]+([.][\w-]+|\[\d+\])*", key):
        hint = "; the + in front is not needed here" if override.startswith("+") else ""
        raise RequestError(
            f"override {override!r}: expected key=value, such as actor.optimizer.lr=1e-6{hint}"
        )
    try:
        value = read_value(text)
        both = OmegaConf.is_dict(OmegaConf.select(tree, key)) and isinstance(value, dict)
        OmegaConf.update(tree, key, value, merge=both)
    except OmegaConfBaseException as error:
        reason = str(error).partition("\n")[0]
        raise RequestError(f"override {override!r}: can't be applied: {reason}") from error
    except (ValueError, TypeError) as error:
        raise RequestError(f"override {override!r}: can't be applied: {error}") from error


def _escape(value: Any) -> Any:
    """Keep `${` in values from being read as an interpolation."""
    if isinstance(value, dict):
        return {key: _escape(item) for key, item in cast(dict[str, Any], value).items()}
    if isinstance(value, list):
        return [_escape(item) for item in cast(list[Any], value)]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return value
