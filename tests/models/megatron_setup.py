"""Making Megatron backends in a rank of a test, and looking inside them."""

import torch
import torch.distributed as dist
from megatron.core import parallel_state

import hal
from mindrl.algorithms.objective import PolicyObjective
from mindrl.config.schema import Config
from mindrl.models.kernel_facts import kernel_facts
from mindrl.models.megatron import MegatronBackend
from mindrl.weight_maps import read_architecture


def make_backend(
    config: Config, *, trainable: bool = True, accelerator: str = "cpu"
) -> tuple[MegatronBackend, int, int]:
    """A backend, and this rank's place in its data-parallel group: rank and size."""
    arch = read_architecture(config.model.path)
    device = hal.choose(accelerator)
    selection = hal.select(device, kernel_facts(config.actor, arch))
    objective = PolicyObjective.from_config(config.algorithm) if trainable else None
    backend = MegatronBackend(config, arch, device, selection, objective, trainable=trainable)
    group = parallel_state.get_data_parallel_group()
    return backend, dist.get_rank(group), dist.get_world_size(group)


def full_gradients(backend: MegatronBackend) -> dict[str, torch.Tensor]:
    """Whole gradients under Hugging Face names. Data-parallel ranks hold a part of each buffer; put them together."""
    for buffer in (*backend._ddp.buffers, *backend._ddp.expert_parallel_buffers):
        group = buffer.data_parallel_group
        for bucket in buffer.buckets:
            shards = bucket.grad_data.chunk(dist.get_world_size(group))
            mine = shards[dist.get_rank(group)].clone()
            dist.all_gather(list(shards), mine, group=group)
    return {name: tensor.clone() for name, tensor in backend._weights.named_tensors(lambda p: p.main_grad)}
