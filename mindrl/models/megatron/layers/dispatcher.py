"""Bringing tokens to their experts and back."""

from typing import Any

import numpy as np
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.moe_utils import get_default_pg_collection
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

    def combine_postprocess(self, permuted: torch.Tensor) -> torch.Tensor:
        """What the experts made of each row -> the sum for each token, in the shape of the layer's input."""
        num_tokens = self.routing_map.shape[0]
        return self._unpermute(permuted, self._row_ids, num_tokens=num_tokens).view(self.hidden_shape)

    def _maybe_dtoh_and_synchronize(
        self, point: str, tokens_per_expert: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """Bring the counts that the host needs to the host. Megatron's own leaves them on all devices but one
        vendor's; on that one it does not wait for them until they are used."""
        if point != self.cuda_dtoh_point:
            return tokens_per_expert
        self.input_splits = _numbers(self.input_splits)
        self.output_splits = _numbers(self.output_splits)
        self.output_splits_tp = _numbers(self.output_splits_tp)
        if self.num_local_experts > 1:
            self.num_global_tokens_per_local_expert = self.num_global_tokens_per_local_expert.cpu()
        return None if tokens_per_expert is None else tokens_per_expert.cpu()


def _numbers(splits: torch.Tensor | None) -> np.ndarray | None:
    return None if splits is None else splits.cpu().numpy()
