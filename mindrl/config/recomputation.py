"""Recomputation of activations, as `actor.transformer_config` asks for it.

The estimate of memory reads these settings without Megatron-core, and Megatron-core itself takes some that never end:
pieces of 0 layers, for one.
"""

from collections.abc import Mapping
from typing import Any, cast

METHODS = ("uniform", "block")
MODULES = ("core_attn", "layernorm", "mla_up_proj", "mlp", "moe", "moe_act", "shared_experts")
"""What selective recomputation can name in `recompute_modules`."""
DETAILS = ("recompute_method", "recompute_modules", "recompute_num_layers")


def recomputation_problem(settings: Mapping[str, Any]) -> str | None:
    """What is wrong with these settings, as `key: found ..., expected ...` below `actor.transformer_config`."""
    granularity = settings.get("recompute_granularity")
    given = [name for name in DETAILS if settings.get(name) is not None]
    if granularity is None:  # null switches off what a base file asks for, whatever its details are
        alone = given and "recompute_granularity" not in settings
        return (
            f"{given[0]}: has no effect without recompute_granularity (full or selective)" if alone else None
        )
    if granularity not in ("full", "selective"):
        return f"recompute_granularity: found {granularity!r}, expected 'full' or 'selective'"
    wanted = ("recompute_method", "recompute_num_layers") if granularity == "full" else ("recompute_modules",)
    useless = [name for name in given if name not in wanted]
    if useless:
        nulls = ", ".join(f"{name}: null" for name in useless)
        return f"{useless[0]}: has no effect with recompute_granularity: {granularity}; leave it out, or set {nulls}"
    return _whole_layers(settings) if granularity == "full" else _modules(settings.get("recompute_modules"))


def _whole_layers(settings: Mapping[str, Any]) -> str | None:
    method, layers = settings.get("recompute_method"), settings.get("recompute_num_layers")
    if method not in METHODS:
        return f"recompute_method: found {method!r}, expected 'uniform' (pieces of layers) or 'block' (the first layers)"
    if isinstance(layers, bool) or not isinstance(layers, int) or layers < 1:
        return f"recompute_num_layers: found {layers!r}, expected a number of layers above 0"
    return None


def _modules(modules: object) -> str | None:
    if modules is None:
        return None
    if not isinstance(modules, list):
        return f"recompute_modules: found {modules!r}, expected a list of modules, such as [core_attn]"
    for module in cast(list[object], modules):
        if module not in MODULES:
            return f"recompute_modules: found {module!r}, expected some of {', '.join(MODULES)}"
    return None
