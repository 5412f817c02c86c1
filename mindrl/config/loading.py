"""Reading a configuration (composition, overrides, environment) and writing it back."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError

from mindrl.config.base import Section
from mindrl.config.explain import explain
from mindrl.config.schema import Config
from mindrl.errors import RequestError

AnySection = TypeVar("AnySection", bound=Section)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a yaml file, the files its `defaults:` names, and `key=value` overrides; the later wins.

    Mappings merge key by key, lists and values are replaced. `${oc.env:NAME,default}` reads the environment and
    `${other.key}` another key. Raises `RequestError` with every problem found, one a line."""
    return load_section(Config, path, overrides)


def load_section(section: type[AnySection], path: str | Path, overrides: Sequence[str] = ()) -> AnySection:
    """`load` for a file that holds another section than a run's, such as a data set's preprocessing."""
    tree = compose(Path(path))
    for override in overrides:
        _apply(override, tree)
    try:
        values = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise RequestError(f"{path}: {error}") from error
    try:
        return section.model_validate(values)
    except ValidationError as error:
        problems = explain(error, section)
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise RequestError("\n  ".join([f"{path}: {count}", *problems])) from error


def dump(config: Config) -> str:
    """The whole configuration, defaults included, as yaml that `load` reads back to an equal one."""
    return OmegaConf.to_yaml(OmegaConf.create(_escape(config.model_dump(mode="json"))))


def compose(path: Path, opened_by: tuple[Path, ...] = ()) -> DictConfig:
    """Merge a file over the files that its `defaults:` names, relative to it; interpolations stay unresolved."""
    if path.resolve() in opened_by:
        raise RequestError(f"{path}: `defaults` leads back to this file; a file can't build on itself")
    tree = _read(path)
    defaults = cast(dict[str, Any], OmegaConf.to_container(tree)).get("defaults", [])
    tree.pop("defaults", None)
    if not isinstance(defaults, list):
        raise RequestError(f"{path}: defaults: found {defaults!r}, expected a list of files: [base.yaml]")
    files = [path.parent / str(name) for name in cast(list[object], defaults)]
    parts = [compose(file, (*opened_by, path.resolve())) for file in files]
    return cast(DictConfig, OmegaConf.merge(*parts, tree))


def _read(path: Path) -> DictConfig:
    try:
        tree = OmegaConf.create(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise RequestError(f"{path}: can't read this configuration file: {reason}") from error
    except (YAMLError, OmegaConfBaseException) as error:
        raise RequestError(f"{path}: not valid yaml: {error}") from error
    if not isinstance(tree, DictConfig):
        raise RequestError(f"{path}: found a list, expected sections such as `actor:` and `rollout:`")
    return tree


def _apply(override: str, tree: DictConfig) -> None:
    key, equals, text = override.partition("=")
    if not equals or not re.fullmatch(r"[\w-]+([.][\w-]+|\[\d+\])*", key):
        raise RequestError(f"override {override!r}: expected key=value, such as actor.optimizer.lr=1e-6")
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
        OmegaConf.update(tree, key, cast(dict[str, Any], value)["value"], merge=True)
    except (OmegaConfBaseException, YAMLError, ValueError, TypeError) as error:
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
