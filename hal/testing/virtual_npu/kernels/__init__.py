"""torch_npu's fused operators on the virtual NPU: plain torch on host memory, in float32, one file a subject.

They stand below torch_npu's schemas and autograd formulas, so forward and backward kernels are separate operators, as
they are there. Each refuses what the schemas and the public documentation of torch_npu exclude (`refusals`); what is
allowed there and not simulated is refused too, and says so.
"""
