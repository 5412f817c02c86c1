"""The conformance suite: what every device and every kernel has to do, wherever they come from.

    pytest --pyargs hal.testing --accelerator cpu
    pytest --pyargs hal.testing --accelerator NAME -k kernels

NAME is what `hal.accelerator` takes. The option may be repeated; without it, every usable accelerator of this machine
is tested. Kernels of installed packages are tested with the others.

- `test_*.py`: the suite, one file a subject;
- `expected.py`: which providers have to serve on which kind of device;
- `kernel_checks.py`, `ranks.py`: a kernel against its reference, a function on several ranks; usable without pytest;
- `virtual_npu/`: an Ascend device made of host memory, for machines without one.
"""
