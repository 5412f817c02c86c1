"""Megatron-core's own GPTModel, built from config.json and loaded from a converted checkpoint by its own loader.

Nothing here knows how weights are converted: sizes are read off config.json by hand, layers are Megatron's local spec
(a module an expert, attention spelled out), and `dist_checkpointing.load` runs with its default strictness."""

import json
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec, get_gpt_mtp_block_spec
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.post_training.modelopt.layers import Linear
from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.moe import moe_utils
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

import hal
from mindrl.models.megatron.device import prepare
from mindrl.models.megatron.random_state import seed_generators
from tests.checkpoint.stock_config import Layout, transformer_config

NUM_ROWS, LENGTH = 8, 12


class StockModel:
    """One rank's chunks of a model of Megatron's, trainable. Making one is collective."""

    def __init__(self, config_json: Path, layout: Layout) -> None:
        prepare(hal.choose("cpu"))
        if not hasattr(moe_utils, "te_general_gemm"):  # the router asks whether it is None
            moe_utils.te_general_gemm = None  # type: ignore[attr-defined]
        parallel_state.destroy_model_parallel()
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=layout.tensor,
            pipeline_model_parallel_size=layout.pipeline,
            virtual_pipeline_model_parallel_size=layout.virtual if layout.virtual > 1 else None,
            expert_model_parallel_size=layout.expert,
            expert_tensor_parallel_size=layout.expert_tensor,
            create_gloo_process_groups=False,
        )
        seed_generators(1, hal.choose("cpu"))
        self.hf = json.loads(config_json.read_text())
        self.config = self._transformer(config_json, layout)
        stages = range(layout.virtual) if layout.virtual > 1 else (None,)
        # With tied embeddings on two stages Megatron asks one vendor's devices to hold the copies.
        with patch.object(torch.Tensor, "cuda", lambda tensor: tensor):
            self.chunks = [self._chunk(stage) for stage in stages]
        self.ddp = [
            DistributedDataParallel(
                self.config, DistributedDataParallelConfig(overlap_grad_reduce=False), chunk
            )
            for chunk in self.chunks
        ]

    def _transformer(self, config_json: Path, layout: Layout) -> TransformerConfig:
        return transformer_config(json.loads(config_json.read_text()), layout)

    def _chunk(self, vp_stage: int | None) -> GPTModel:
        rope = self.hf["rope_parameters"]
        spec = get_gpt_decoder_block_spec(
            self.config, use_transformer_engine=False, normalization="RMSNorm", vp_stage=vp_stage
        )
        _complete(spec, self.config)
        prediction = None
        if self.config.mtp_num_layers:
            prediction = get_gpt_mtp_block_spec(
                self.config, spec, use_transformer_engine=False, vp_stage=vp_stage
            )
        tensor_size = parallel_state.get_tensor_model_parallel_world_size()
        return GPTModel(
            config=self.config,
            transformer_layer_spec=spec,
            vocab_size=-(-self.hf["vocab_size"] // tensor_size) * tensor_size,
            max_sequence_length=self.hf["max_position_embeddings"],
            pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage),
            post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage),
            share_embeddings_and_output_weights=self.hf["tie_word_embeddings"],
            position_embedding_type="none" if self.config.multi_latent_attention else "rope",
            rotary_base=rope["rope_theta"],
            mtp_block_spec=prediction,
            vp_stage=vp_stage,
        )

    def state(self) -> dict[str, Any]:
        """This rank's shards, for `dist_checkpointing`."""
        metadata = {"dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True)}
        return {
            f"model{number}": chunk.sharded_state_dict(metadata=metadata)
            for number, chunk in enumerate(self.chunks)
        }

    def read(self, checkpoint: Path) -> list[dict[str, torch.Tensor]]:
        """This rank's part of a `torch_dist` checkpoint, for each chunk; it may lie where the weights lay."""
        found = dist_checkpointing.load(self.state(), str(checkpoint))
        return [found[f"model{number}"] for number in range(len(self.chunks))]

    def load(self, checkpoint: Path) -> None:
        """Take the weights of a `torch_dist` checkpoint; what it does not hold is not a number afterwards."""
        for chunk in self.chunks:
            for parameter in chunk.parameters():
                parameter.data.fill_(float("nan"))
        for chunk, state in zip(self.chunks, self.read(checkpoint), strict=True):
            chunk.load_state_dict(state)

    def logits_and_gradients(
        self, rows: torch.Tensor
    ) -> tuple[torch.Tensor | None, list[dict[str, torch.Tensor]]]:
        """Logits [this rank's rows, LENGTH, vocab_size] on the last stage, and for each chunk the gradients of the mean
        cross entropy over all tokens of all ranks."""
        rank, size = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
        batches = rows.chunk(size)[rank].chunk(2)
        for ddp in self.ddp:
            ddp.zero_grad_buffer()
            ddp.train()
        found = get_forward_backward_func()(
            forward_step_func=self._forward,
            data_iterator=[iter(batches) for _ in self.ddp] if len(self.ddp) > 1 else iter(batches),
            model=self.ddp if len(self.ddp) > 1 else self.ddp[0],
            num_microbatches=len(batches),
            seq_length=LENGTH,
            micro_batch_size=len(batches[0]),
            forward_only=False,
        )
        gradients = [
            {name: parameter.main_grad for name, parameter in chunk.named_parameters()}
            for chunk in self.chunks
        ]
        return torch.cat(found) if found else None, gradients

    def _forward(self, batches: Any, model: torch.nn.Module) -> tuple[torch.Tensor, Any]:
        rows = next(batches)
        positions = torch.arange(LENGTH)[None]
        return model(rows[:, :-1].contiguous(), positions, None), partial(self._loss, rows[:, 1:])

    def _loss(
        self, targets: torch.Tensor, output: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = gather_from_tensor_model_parallel_region(self._logits(output))[..., : self.hf["vocab_size"]]
        total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        return total, torch.tensor(targets.numel(), dtype=torch.int), logits.detach()

    def _logits(self, output: torch.Tensor) -> torch.Tensor:
        """[rows, LENGTH, this rank's part of the vocabulary] of what the last stage returns."""
        return output


# What Megatron's spec without TransformerEngine lacks.


class SequenceNorm(torch.nn.RMSNorm):
    """torch's RMSNorm on a part of the sequence: Megatron adds up the weight's gradient over tensor-parallel ranks where
    it has this mark. Megatron's wrapper of torch's norm refuses sequence parallelism."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float, **_: Any) -> None:
        super().__init__(hidden_size, eps)
        self.weight.sequence_parallel = True  # type: ignore[attr-defined]


class LatentCoreAttention(DotProductAttention):
    """Megatron's, which does not take the two widths that latent attention tells it; `kv_channels` says the second."""

    def __init__(self, *args: Any, k_channels: int = 0, v_channels: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


def _complete(spec: TransformerBlockSubmodules, config: TransformerConfig) -> None:
    if config.sequence_parallel:
        spec.layer_norm = SequenceNorm
    for layer in spec.layer_specs:
        attention = layer.submodules.self_attention.submodules
        if config.multi_latent_attention:
            attention.core_attention = LatentCoreAttention
            # Cut by columns, as the spec has them, their gradients are wrong on more than one tensor-parallel rank.
            attention.linear_q_down_proj = attention.linear_kv_down_proj = Linear
        if config.sequence_parallel:
            layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = SequenceNorm
        if config.sequence_parallel and config.multi_latent_attention:
            attention.q_layernorm = attention.kv_layernorm = SequenceNorm
        elif config.sequence_parallel and config.qk_layernorm:
            attention.q_layernorm = attention.k_layernorm = SequenceNorm
