"""Training backend on Megatron-core 0.16."""

import warnings

with warnings.catch_warnings():
    # Importing it warns that TransformerEngine and Apex are missing: the HAL's kernels stand in for both.
    warnings.filterwarnings("ignore", module=r"megatron\.")
    from mindrl.models.megatron.backend import MegatronBackend
    from mindrl.models.megatron.parallel import destroy_parallel, initialize_parallel

__all__ = ["MegatronBackend", "destroy_parallel", "initialize_parallel"]
