"""Move device memory to the host and back under tensors that keep their identity."""

from collections.abc import Iterable

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import ChainedOptimizer

from hal import Accelerator


class HostCopies:
    """Storages that wait on the host. Views of a storage (a parameter in a buffer) come back with it."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._moved: list[tuple[torch.UntypedStorage, int, torch.Tensor | None]] = []

    def move_out(self, tensors: Iterable[torch.Tensor], *, keep: bool = True) -> None:
        """Free the tensors' device memory; with `keep` their content is copied to the host first."""
        for storage in {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors
        }.values():
            if storage.nbytes() == 0:
                continue
            copy = None
            if keep:
                copy = self._accelerator.pin(torch.empty(storage.nbytes(), dtype=torch.uint8))
                copy.untyped_storage().copy_(storage)
            self._moved.append((storage, storage.nbytes(), copy))
            storage.resize_(0)

    def move_back(self) -> None:
        """Take the memory again; what was not kept comes back as zeros."""
        for storage, num_bytes, copy in self._moved:
            storage.resize_(num_bytes)
            if copy is None:
                storage.fill_(0)
            else:
                storage.copy_(copy.untyped_storage())
        self._moved.clear()

    @property
    def num_bytes(self) -> int:
        """Device memory that is free at the moment because of this."""
        return sum(num_bytes for _, num_bytes, _ in self._moved)


def parameter_tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    """Weights, one by one or as the buffers they lie in."""
    return [param.data for param in model.parameters()]


def gradient_buffers(model: DistributedDataParallel) -> list[torch.Tensor]:
    """Gradients, which need not survive."""
    return [buffer.grad_data for buffer in (*model.buffers, *model.expert_parallel_buffers)]


def optimizer_tensors(optimizer: ChainedOptimizer) -> list[torch.Tensor]:
    """Float32 main weights (for float32 models they are the weights themselves) and moments, as far as they exist."""
    tensors: list[torch.Tensor] = []
    for group in optimizer.param_groups:
        tensors += [param.data for param in group["params"]]
    for chained in optimizer.chained_optimizers:
        for state in chained.optimizer.state.values():
            tensors += [
                value for value in state.values() if isinstance(value, torch.Tensor) and value.dim() > 0
            ]
    return tensors
