"""The positions of a context-parallel rank."""

from collections.abc import Callable

import torch
import torch.distributed as dist

from hal import Accelerator
from hal.kernels.context_parallel import zigzag
from mindrl.models.megatron.patches.ledger import Patch


def _make(accelerator: Accelerator) -> Callable[..., torch.Tensor]:
    del accelerator
    return positions_of_this_rank


def positions_of_this_rank(pos_emb: torch.Tensor, seq_dim: int, cp_group: dist.ProcessGroup) -> torch.Tensor:
    """The first and the last part of the sequence that are this rank's, of an embedding of all positions."""
    return zigzag(pos_emb, rank=cp_group.rank(), world_size=cp_group.size(), dim=seq_dim)


CONTEXT_POSITIONS = Patch(
    module="megatron.core.models.common.embeddings.rope_utils",
    function="get_pos_emb_on_this_cp_rank",
    why="Moves an index from pinned memory to one vendor's device, by a method of tensors that fails on all others: no "
    "context parallelism with rotary embedding.",
    until="Megatron-core makes the index where the embedding is.",
    make=_make,
)
