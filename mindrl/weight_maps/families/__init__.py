"""One file a family. A file in this folder is a family; nothing else has to name it."""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, Protocol, cast

from mindrl.weight_maps.architecture import Architecture
from mindrl.weight_maps.layers import Part


class Family(Protocol):
    """What a family's file has."""

    MODEL_TYPE: str
    """As config.json says it."""
    TITLE: str
    """For people."""
    LAYER: tuple[Part, ...]
    """What a layer is made of."""

    def architecture(self, config: Mapping[str, Any]) -> Architecture:
        """Read a config.json; `RequestError` names what is not understood."""
        ...


def _found() -> dict[str, Family]:
    files = [importlib.import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]
    families = [cast(Family, file) for file in files]
    by_type = {family.MODEL_TYPE: family for family in families}
    assert len(by_type) == len(families), "two files have one MODEL_TYPE"
    return by_type


FAMILIES: dict[str, Family] = _found()
"""Family by `model_type`."""
