"""Which kernel computes this?

One file an op: its reference function *is* the contract (name, signature, meaning), with sample inputs. `providers/`
holds one file a source of faster kernels. `hal.select` picks one provider an op, once, before the first step.
"""
