"""Core attention: what happens between the projections."""

from contextlib import nullcontext
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule

from hal import Selection
from hal.kernels.context_parallel import context_parallel_attention


class CoreAttention(MegatronModule):
    """Causal attention over dense rows (padding is on the right, so that no mask is needed) or packed sequences.

    Value heads may have another size than query and key heads. Context-parallel ranks hold the first and the last
    part of the sequence that is theirs in Megatron's zigzag."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        selection: Selection,
        softmax_scale: float | None = None,
        pg_collection: ProcessGroupCollection | None = None,
        **_: Any,
    ) -> None:
        super().__init__(config)
        del layer_number, attention_type
        assert attn_mask_type is AttnMaskType.causal
        self._scale = config.kv_channels**-0.5 if softmax_scale is None else softmax_scale
        self._dropout = config.attention_dropout
        self._kernel = selection.attention
        self._context_group = (
            pg_collection.cp if pg_collection else parallel_state.get_context_parallel_group()
        )
        # The kernel was chosen for the calls that these facts announce, and for no others.
        self._serves_packed = selection.facts.packed
        assert selection.facts.context_parallel_size == self._context_group.size()

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: None,
        packed_seq_params: PackedSeqParams | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Dense: query [length, rows, heads, head_dim], key and value with kv_heads -> [length, rows, heads *
        value_head_dim]. Packed: the same without the rows, tokens of all sequences one after the other."""
        assert attention_mask is None
        if packed_seq_params is not None:
            assert self._serves_packed
            lengths = {
                "cu_seqlens": packed_seq_params.cu_seqlens_q,
                "max_seqlen": packed_seq_params.max_seqlen_q,
            }
            return self._attend(query, key, value, lengths).flatten(1)
        rows_first = (tensor.transpose(0, 1) for tensor in (query, key, value))
        return self._attend(*rows_first, {}).transpose(0, 1).flatten(2)

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: dict[str, Any]
    ) -> torch.Tensor:
        options = {
            "softmax_scale": self._scale,
            "dropout_p": self._dropout if self.training else 0.0,
            **lengths,
        }
        # Tensor-parallel ranks have different heads, which must not lose the same probabilities. With sequence
        # parallelism the layers draw from each rank's own stream already; a fork of it would start it again.
        own_stream = options["dropout_p"] and not self.config.sequence_parallel
        with get_cuda_rng_tracker().fork() if own_stream else nullcontext():
            if self._context_group.size() == 1:
                return self._kernel(query, key, value, **options)
            return context_parallel_attention(
                self._kernel, query, key, value, group=self._context_group, **options
            )
