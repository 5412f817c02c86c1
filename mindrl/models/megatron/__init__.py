"""Training backend on Megatron-core 0.16."""

from mindrl.models.megatron.backend import MegatronBackend
from mindrl.models.megatron.parallel import destroy_parallel, initialize_parallel

__all__ = ["MegatronBackend", "destroy_parallel", "initialize_parallel"]
