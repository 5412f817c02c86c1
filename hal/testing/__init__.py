"""Checks that anyone can point at a device or a kernel of their own.

- `accelerator_checks`: what every `Accelerator` must do;
- `kernel_checks`: a kernel against its op's reference, results and gradients.

A check returns nothing, or raises `AssertionError` with what was found.
"""
