"""What only runs on the host take: the C library's allocator, and code and caches of libraries.

Measured with glibc 2.36 and torch 2.13 (docs/planning.md). torch asks for aligned memory, and glibc before 2.38 often
does not find the piece again that it was given back (glibc bug 14581); pieces below 32 MiB stay in its heap.
"""

from mindrl.config.schema import Config

LIBRARIES = 160_000_000
"""Code paged in, compiled kernels, engine and process group, and what the heap keeps of set-up."""
FRAGMENTS = 0.9
"""Bytes lost between a pass's tensors, per byte of activations."""
RETAINED = 1.5
"""Bytes that stay with the process after the backward pass, per byte of activations."""


def is_host(config: Config) -> bool:
    """Whether the configuration names the host as its device."""
    return config.hal.accelerator == "cpu"


def fragments(activations: int) -> int:
    """Heap that exists beside a pass's activations and can't be used."""
    return int(FRAGMENTS * activations)


def retained(activations: int) -> int:
    """Heap that other phases find occupied by what the update freed."""
    return int(RETAINED * activations)
