"""The project's own models, built as the training backend builds them, where `stock_megatron` has Megatron-core's."""

from pathlib import Path

import torch
from megatron.core.distributed import finalize_model_grads
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from megatron.core.transformer import TransformerConfig

import hal
from mindrl.models.kernel_facts import kernel_facts
from mindrl.models.megatron.layers import use_rotary_kernel
from mindrl.models.megatron.model import build_model
from mindrl.models.megatron.transformer_config import build_transformer_config
from mindrl.weight_maps import read_architecture
from tests.checkpoint.stock_config import Layout
from tests.checkpoint.stock_megatron import StockModel
from tests.models.tiny_models import make_config


class OurModel(StockModel):
    """One rank's shard of a policy; its last stage makes logits of the hidden states that a policy ends with."""

    def _transformer(self, config_json: Path, layout: Layout) -> TransformerConfig:
        hf_dir = config_json.parent
        actor = make_config(
            hf_dir,
            torch.distributed.get_world_size(),
            tensor=layout.tensor,
            pipeline=layout.pipeline,
            expert=layout.expert,
            sequence_parallel=layout.sequence,
        ).actor
        self._architecture = read_architecture(hf_dir)
        self._selection = hal.select(hal.choose("cpu"), kernel_facts(actor, self._architecture))
        if self._architecture.latent_attention is None:
            use_rotary_kernel(self._selection)
        config = build_transformer_config(actor, self._architecture, fused_rope=True)
        config.finalize_model_grads_func = finalize_model_grads
        return config

    def _chunk(self, vp_stage: int | None) -> GPTModel:
        assert vp_stage is None
        return build_model(self.config, self._architecture, self._selection, hal.choose("cpu"))

    def _logits(self, output: torch.Tensor) -> torch.Tensor:
        if self.config.sequence_parallel:
            hidden = gather_from_sequence_parallel_region(output)
        else:
            hidden = copy_to_tensor_model_parallel_region(output)
        [chunk] = self.chunks
        return torch.matmul(hidden, chunk.output_weight().t()).transpose(0, 1)
