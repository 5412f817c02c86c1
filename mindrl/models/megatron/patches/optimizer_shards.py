"""The distributed optimizer's sorting of parameters into 16-bit and 32-bit ones, by dtype."""

from typing import Any

import torch
from megatron.core.tensor_parallel import copy_tensor_model_parallel_attributes

from hal import Accelerator
from mindrl.models.megatron.patches.ledger import Patch


def _make(accelerator: Accelerator) -> Any:
    del accelerator
    return classmethod(build_model_and_main_param_groups)


def build_model_and_main_param_groups(
    cls: type,
    gbuf_ranges: list[Any],
    param_gbuf_map: dict[torch.nn.Parameter, tuple[Any, ...]],
    opt_group_ranges: list[dict[str, Any]],
    config: Any,
) -> tuple[list[Any], ...]:
    """Cut this rank's shard out of every parameter and hand the float32 ones to the inner optimizer.

    Returns, a list per optimizer group each: 16-bit model parameters, float32 model parameters, shards of the
    16-bit ones, shards of the float32 ones, float32 copies of the 16-bit shards."""
    del cls
    assert not config.use_precision_aware_optimizer_no_fp8_or_ds_fp8  # mindrl never asks for it
    groups = tuple([[] for _ in opt_group_ranges] for _ in range(5))
    half_params, full_params, half_shards, full_shards, main_shards = groups
    for number, group in enumerate(opt_group_ranges):
        for param in group["params"]:
            buffer, dtypes, bucket = param_gbuf_map[param]
            own = gbuf_ranges[buffer][dtypes][bucket]["param_map"][param]["param"]
            shard = param.detach().view(-1)[own.start : own.end]
            _copy_attributes(shard, param)
            if param.dtype == torch.float32:
                full_params[number].append(param)
                full_shards[number].append(shard)
                continue
            main = shard.clone().float()
            _copy_attributes(main, param)
            param.main_param, param.main_param_sharded = main, True
            half_params[number].append(param)
            half_shards[number].append(shard)
            main_shards[number].append(main)
        group["orig_group"]["params"] = [*full_shards[number], *main_shards[number]]
    return groups


def _copy_attributes(shard: torch.Tensor, param: torch.nn.Parameter) -> None:
    """What decides whether a shard counts in the gradient norm."""
    copy_tensor_model_parallel_attributes(shard, param)
    if hasattr(param, "shared"):
        shard.shared = param.shared  # type: ignore[attr-defined]


OPTIMIZER_SHARDS = Patch(
    module="megatron.core.optimizer.distrib_optimizer",
    function="DistributedOptimizer._build_model_and_main_param_groups",
    why="Compares `param.type()` with one vendor's tensor type names and raises TypeError on all other devices.",
    until="Megatron-core compares dtypes.",
    make=_make,
)
