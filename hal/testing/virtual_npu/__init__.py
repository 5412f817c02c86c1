"""The virtual NPU: the real torch_npu on a machine without Ascend hardware and software.

    python -m hal.testing.virtual_npu build             # once, some twenty seconds; needs a C++ compiler
    python -m hal.testing.virtual_npu run -- COMMAND     # COMMAND and its children see simulated NPUs
    python -m hal.testing.virtual_npu info               # what is built, and for which versions

The interpreter is that of `.venv-npu` (`requirements/install.sh --accelerator npu-virtual`). torch_npu's schemas, autograd
formulas, allocator and process group are the real ones; what lies below them is simulated on the host:

- `wheel`: what the torch_npu package asks of CANN's libraries; `builder`: makes stand-ins for them;
- `native/`: the stand-ins' code, and torch's own operators for device `npu`;
- `kernels/`: torch_npu's fused operators, in plain torch;
- `startup.py`: runs in every process before torch_npu is imported, and puts all this in place.

docs/virtual-npu.md says what passing on it proves, and what not: not Ascend's numerics, not its speed, not the argument
rules of aclnn.
"""
