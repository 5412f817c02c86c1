"""Bringing tokens to their experts and back."""

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import (
    gather_from_sequence_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.moe_utils import get_default_pg_collection, sort_chunks_by_idxs
from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher

from hal import Selection


class MixtureLayer(MoELayer):
    """Megatron's layer of experts with a dispatcher of ours."""

    def __init__(
        self,
        config: TransformerConfig,
        submodules: MoESubmodules,
        selection: Selection,
        layer_number: int | None = None,
        pg_collection: ProcessGroupCollection | None = None,
    ) -> None:
        assert config.moe_token_dispatcher_type == "alltoall"
        assert not config.moe_shared_expert_overlap
        groups = pg_collection or get_default_pg_collection()
        super().__init__(config, submodules, layer_number, groups)
        self.token_dispatcher = TokenDispatcher(
            self.num_local_experts, self.local_expert_indices, config, groups, selection=selection
        )


class TokenDispatcher(MoEAlltoAllTokenDispatcher):
    """Megatron's all-to-all between expert-parallel ranks, with the HAL's permutation before and after it."""

    def __init__(self, *args: Any, selection: Selection, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert not self.drop_and_pad
        self._permute = selection.moe_permute
        self._unpermute = selection.moe_unpermute

    def dispatch_preprocess(
        self, hidden_states: torch.Tensor, routing_map: torch.Tensor, probs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden_states [length, rows, hidden_size], routing_map (bool) and probs [tokens, experts] -> tokens sorted
        by expert [tokens * experts a token, hidden_size], and their probabilities."""
        self.hidden_shape = hidden_states.shape
        self.routing_map, self.probs = routing_map, probs
        self.tokens_per_expert = self._maybe_dtoh_and_synchronize(
            "before_permutation_1", self.preprocess(routing_map)
        )
        permuted, permuted_probs, self._row_ids = self._permute(
            hidden_states.flatten(0, -2), routing_map, probs, num_rows=int(self.num_out_tokens)
        )
        return permuted, permuted_probs

    def dispatch_postprocess(
        self, rows: torch.Tensor, probs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What came from other ranks -> the same with what ranks that share these experts' matrices got, sorted by
        expert; how many rows each expert has; their probabilities."""
        assert (
            self.shared_experts is None
        )  # they are computed beside the routed ones, not between their steps
        if self.tp_size > 1:
            counts = self.output_splits_tp.tolist()
            rows, probs = (_gather_rows(part, counts, self.tp_group) for part in (rows, probs))
        self.tokens_per_expert = self._maybe_dtoh_and_synchronize(
            "before_permutation_2", self.tokens_per_expert
        )
        if self.num_local_experts > 1:
            by_source = self.num_global_tokens_per_local_expert.ravel()
            rows, probs = sort_chunks_by_idxs(
                rows, by_source, self.sort_input_by_local_experts, probs=probs, fused=False
            )
        rows_per_expert = self._maybe_dtoh_and_synchronize("before_finish", self.tokens_per_expert)
        self.tokens_per_expert = None
        return rows, rows_per_expert, probs

    def combine_preprocess(self, rows: torch.Tensor) -> torch.Tensor:
        """Inverse of `dispatch_postprocess`: parts of sums that ranks share are added up."""
        if self.num_local_experts > 1:
            by_expert = self.num_global_tokens_per_local_expert.T.ravel()
            rows, _ = sort_chunks_by_idxs(rows, by_expert, self.restore_output_by_local_experts, fused=False)
        if self.tp_size == 1:
            return rows
        summed = _add_up_rows(rows.to(self.probs.dtype), self.output_splits_tp.tolist(), self.tp_group)
        return summed.to(rows.dtype)

    def combine_postprocess(self, permuted: torch.Tensor) -> torch.Tensor:
        """What the experts made of each row -> the sum for each token, in the shape of the layer's input."""
        num_tokens = self.routing_map.shape[0]
        return self._unpermute(permuted, self._row_ids, num_tokens=num_tokens).view(self.hidden_shape)

    def _maybe_dtoh_and_synchronize(
        self, point: str, tokens_per_expert: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """Bring the counts that the host needs to the host. Megatron's own leaves them where they are on all devices
        but one vendor's; there it copies beside other work, which this one waits for."""
        if point != self.cuda_dtoh_point:
            return tokens_per_expert
        splits = (self.input_splits, self.output_splits, self.output_splits_tp)
        by_source = self.num_global_tokens_per_local_expert if self.num_local_experts > 1 else None
        *on_host, tokens_per_expert, by_source = _on_host(*splits, tokens_per_expert, by_source)
        self.input_splits, self.output_splits, self.output_splits_tp = (
            None if counts is None else counts.numpy() for counts in on_host
        )
        if by_source is not None:
            self.num_global_tokens_per_local_expert = by_source
        return tokens_per_expert


def _gather_rows(rows: torch.Tensor, counts: list[int], group: dist.ProcessGroup) -> torch.Tensor:
    """Every rank's rows, `counts` of them: as many of each travel, because not every library gathers unequal parts."""
    most = max(counts)
    everyones = gather_from_sequence_parallel_region(_padded(rows, most), group=group)
    return torch.cat([part[:count] for part, count in zip(everyones.split(most), counts, strict=True)])


def _add_up_rows(rows: torch.Tensor, counts: list[int], group: dist.ProcessGroup) -> torch.Tensor:
    """Each rank's part of all rows, added up over ranks."""
    most = max(counts)
    parts = torch.cat([_padded(part, most) for part in rows.split(counts)])
    return reduce_scatter_to_sequence_parallel_region(parts, group=group)[: counts[group.rank()]]


def _padded(rows: torch.Tensor, count: int) -> torch.Tensor:
    missing = count - len(rows)
    return rows if missing == 0 else torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])


def _on_host(*counts: torch.Tensor | None) -> list[torch.Tensor | None]:
    """Copies of those that are there, by one transfer."""
    there = [count for count in counts if count is not None]
    together = torch.cat([count.flatten() for count in there]).cpu()
    parts = iter(together.split([count.numel() for count in there]))
    return [None if count is None else next(parts).view(count.shape) for count in counts]
