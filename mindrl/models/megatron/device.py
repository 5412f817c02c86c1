"""Bring Megatron-core to the device at hand: redirect its modules, then patch what a redirect can't reach."""

import logging
import sys
from types import ModuleType

import megatron.core.dist_checkpointing.strategies.torch  # noqa: F401  checkpoints need the redirect too

import hal
from hal import Accelerator
from mindrl.models.megatron.patches import apply_patches


def prepare(accelerator: Accelerator) -> None:
    """Make every Megatron module imported so far work on `accelerator`. Repeating it changes nothing."""
    hal.redirect(megatron_modules(), accelerator)
    apply_patches(accelerator)
    # It warns of every layer of experts whose class is not Megatron's own.
    logging.getLogger("megatron.core.transformer.transformer_layer").setLevel(logging.ERROR)
    if accelerator.device_type == "cpu":
        # It warns whenever drawing random numbers on the device also advances the host's generator: here they are one.
        logging.getLogger("megatron.core.tensor_parallel.random").setLevel(logging.ERROR)


def megatron_modules() -> list[ModuleType]:
    """The Megatron modules that this process has imported."""
    return [module for name, module in sys.modules.items() if name.partition(".")[0] == "megatron"]
