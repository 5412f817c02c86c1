"""Finds the architecture that a configuration plans for: the model's own config.json, or one in its place."""

from dataclasses import fields
from pathlib import Path

import mindrl
from mindrl.config.schema import Config
from mindrl.errors import RequestError
from mindrl.files import read_json_object
from mindrl.weight_maps import Architecture, architecture_of, read_architecture


def planned_architecture(config: Config) -> Architecture:
    """Of `model.path` where that holds a config.json, else of `model.architecture`; no weights are needed.

    Raises `RequestError` where neither is there, or both are and describe different models."""
    in_path = config.model.path / "config.json"
    if in_path.exists():
        architecture = read_architecture(config.model.path)
        check_same_model(config, architecture)
        return architecture
    if config.model.architecture is None:
        raise RequestError(
            f"model.path: {in_path} does not exist, so the size of the model is not known. To plan without the model, "
            f"set model.architecture to its config.json; these are there: {', '.join(_shipped()) or 'none'}."
        )
    return architecture_file(config.model.architecture)


NO_SHAPE = frozenset(
    {"dtype", "max_position_embeddings", "num_mtp_layers", "rms_norm_eps", "rope_theta", "rope_scaling"}
)
"""Fields in which the base model and what was tuned from it may differ."""


def check_same_model(config: Config, architecture: Architecture) -> None:
    """Refuse a `model.architecture` of another shape than `model.path` has, whose architecture is given."""
    if config.model.architecture is None:
        return
    other = architecture_file(config.model.architecture)
    different = [
        f"{field.name} {getattr(other, field.name)!r} instead of {getattr(architecture, field.name)!r}"
        for field in fields(Architecture)
        if field.name not in NO_SHAPE and getattr(other, field.name) != getattr(architecture, field.name)
    ]
    if different:
        raise RequestError(
            f"model.architecture: {config.model.architecture} describes another model than model.path, "
            f"{config.model.path}: {'; '.join(different)}. It is for planning without the model: set "
            "model.architecture=null."
        )


def architecture_file(path: Path) -> Architecture:
    """Of a config.json or a directory with one. `configs/model/...` is also found outside the checkout."""
    places = [path] if path.is_absolute() else [path, *(root / path for root in _roots())]
    for place in places:
        file = place / "config.json" if place.is_dir() else place
        if file.is_file():
            return architecture_of(read_json_object(file))
    raise RequestError(
        f"model.architecture: {path} is neither a config.json nor a directory with one; these come with the program: "
        f"{', '.join(_shipped()) or 'none'}."
    )


def _roots() -> tuple[Path, Path]:
    """What holds configs/: the checkout, or the installed package."""
    package = Path(mindrl.__file__).parent
    return package.parent, package


def _shipped() -> list[str]:
    return sorted(
        {
            str(file.parent.relative_to(root))
            for root in _roots()
            for file in root.glob("configs/model/*/config.json")
        }
    )
