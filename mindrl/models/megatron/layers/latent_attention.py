"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1): keys and values from a small latent."""

from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer.multi_latent_attention import MLASelfAttention

from hal import Selection
from mindrl.models.megatron.layers.rotary import CosSin

LATENT_NORM_EPS = 1e-6
"""Of the norms on short vectors. It is no setting: DeepSeek's models have it whatever `rms_norm_eps` is (Moonlight:
1e-5), and Megatron would take that."""


class LatentAttention(MLASelfAttention):
    """Megatron's, with the HAL's rotary kernel; its own is one vendor's, or turns angles with six operators a layer.

    Down-projections are replicated: every rank projects its part of the sequence."""

    def __init__(self, *args: Any, selection: Selection, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert selection.facts.rotary_interleaved
        self._rotary = selection.rotary
        self._cos_sin = CosSin(interleaved=True)
        self.kv_layernorm.eps = LATENT_NORM_EPS
        if self.config.q_lora_rank is not None:
            self.q_layernorm.eps = LATENT_NORM_EPS

    def get_query_key_value_tensors(
        self,
        hidden_states: torch.Tensor,
        key_value_states: None = None,
        position_ids: torch.Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
        inference_context: None = None,
        *,
        inference_params: None = None,
    ) -> tuple[torch.Tensor, ...]:
        """hidden_states [length (/ tensor parallel size with sequence parallelism), rows, hidden_size] -> query, key,
        value [length, rows, heads, ...], and the normalized latents of query and of key and value.

        Packed sequences are one row that the first three results go without. Coordinates that carry the position are
        turned in pairs of neighbours, where Megatron sorts them into halves: both sum to the same scores."""
        config = self.config
        query_latent = hidden_states
        if config.q_lora_rank is None:
            query, _ = self.linear_q_proj(hidden_states)
        else:
            query_latent = self.q_layernorm(self.linear_q_down_proj(hidden_states)[0])
            query, _ = self.linear_q_up_proj(query_latent)
        latent, key_position = self.linear_kv_down_proj(hidden_states)[0].split(
            [config.kv_lora_rank, config.qk_pos_emb_head_dim], dim=-1
        )
        latent = self.kv_layernorm(latent)
        key_value, _ = self.linear_kv_up_proj(latent)
        if config.sequence_parallel:
            key_position = gather_from_sequence_parallel_region(key_position, group=self.tp_group)

        heads = self.num_attention_heads_per_partition
        query = query.unflatten(-1, (heads, -1))
        content, position = query.split([config.qk_head_dim, config.qk_pos_emb_head_dim], dim=-1)
        key_content, value = key_value.unflatten(-1, (heads, -1)).split(
            [config.qk_head_dim, config.v_head_dim], dim=-1
        )
        cos_sin = self._cosines_and_sines(hidden_states, packed_seq_params)
        position = self._rotary(position, *cos_sin, interleaved=True)
        key_position = self._rotary(key_position[:, :, None], *cos_sin, interleaved=True)
        query = torch.cat([content, position], dim=-1)
        key = torch.cat([key_content, key_position.expand(-1, -1, heads, -1)], dim=-1)
        if packed_seq_params is not None:
            query, key, value = query[:, 0], key[:, 0], value[:, 0]
        return query, key, value, query_latent, latent

    def _cosines_and_sines(
        self, hidden_states: torch.Tensor, packed: PackedSeqParams | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        length = self.rotary_pos_emb.get_rotary_seq_len(None, None, hidden_states, self.config, packed)
        found = self.rotary_pos_emb(length, packed_seq=packed is not None)
        halves, scale = found if isinstance(found, tuple) else (found, 1.0)  # YaRN has a scale
        context = self.pg_collection.cp
        cu_seqlens = None if packed is None else packed.cu_seqlens_q
        return self._cos_sin(halves, cu_seqlens, context.size(), context.rank(), scale)
