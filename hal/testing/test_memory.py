"""Memory is counted: what is in use, the most there was, what is left."""

import torch

import hal

BLOCK = 64 * 2**20
"""Bytes; larger than what anything else here takes."""


def block(accelerator: hal.Accelerator) -> torch.Tensor:
    """Written, so that the host counts it too."""
    tensor = torch.ones(BLOCK, dtype=torch.uint8, device=accelerator.device())
    accelerator.synchronize()
    return tensor


def test_a_block_is_counted_as_long_as_it_lives(accelerator: hal.Accelerator) -> None:
    before = accelerator.memory_allocated()
    tensor = block(accelerator)
    assert accelerator.memory_allocated() >= before + BLOCK // 2
    assert tensor.numel() == BLOCK
    del tensor
    accelerator.empty_cache()
    assert accelerator.memory_allocated() < before + BLOCK // 2


def test_the_peak_outlives_the_block_and_starts_afresh_when_told(accelerator: hal.Accelerator) -> None:
    accelerator.reset_peak_memory()
    before = accelerator.memory_allocated()
    tensor = block(accelerator)
    del tensor
    accelerator.empty_cache()
    assert accelerator.max_memory_allocated() >= before + BLOCK // 2
    accelerator.reset_peak_memory()
    assert accelerator.max_memory_allocated() < before + BLOCK // 2


def test_free_memory_is_part_of_the_whole(accelerator: hal.Accelerator) -> None:
    free, total = accelerator.memory_info()
    assert 0 < free <= total
    assert accelerator.memory_allocated() <= total
