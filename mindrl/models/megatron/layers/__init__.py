"""Transformer layers of Megatron-core whose computation is the HAL's kernels, handed over by one spec provider."""

from mindrl.models.megatron.layers.provider import HalSpecProvider, decoder_spec
from mindrl.models.megatron.layers.rotary import use_rotary_kernel

__all__ = ["HalSpecProvider", "decoder_spec", "use_rotary_kernel"]
