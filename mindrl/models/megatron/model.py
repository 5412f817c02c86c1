"""The policy: Megatron's GPTModel up to the final hidden states, from which log-probs are taken without logits."""

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer import TransformerConfig

from hal import Accelerator, Selection
from mindrl.models.megatron.layers import decoder_spec
from mindrl.models.megatron.model_settings import rotary_arguments
from mindrl.planning.parameters import padded_vocab_size
from mindrl.weight_maps import Architecture


class PolicyModel(GPTModel):
    """One pipeline stage. The last one returns hidden states after the final norm instead of logits."""

    def _postprocess(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """[length (/ tensor parallel size with sequence parallelism), num_rows, hidden_size], on every stage."""
        return hidden_states

    def setup_embeddings_and_output_layer(self) -> None:
        """Mark the copy of tied embeddings on the last stage, so that the gradient norm counts it once.

        Megatron's own version also copies the first stage's weights over; here every stage loads its own."""
        split = self.pre_process != self.post_process
        if not (self.share_embeddings_and_output_weights and split):
            return
        weight = self.shared_embedding_or_output_weight()
        weight.shared_embedding = True
        if self.post_process:
            weight.shared = True

    def output_weight(self) -> torch.Tensor:
        """[padded_vocab_size / tensor parallel size, hidden_size] of the output layer, on the last stage."""
        if self.share_embeddings_and_output_weights:
            return self.shared_embedding_or_output_weight()
        return self.output_layer.weight


def build_model(
    transformer: TransformerConfig, arch: Architecture, selection: Selection, accelerator: Accelerator
) -> PolicyModel:
    """This rank's stage and shard, on the current device, with weights not yet set."""
    with accelerator.device():
        return _build(transformer, arch, selection)


def _build(transformer: TransformerConfig, arch: Architecture, selection: Selection) -> PolicyModel:
    return PolicyModel(
        config=transformer,
        transformer_layer_spec=decoder_spec(transformer, selection),
        vocab_size=padded_vocab_size(arch, transformer.tensor_model_parallel_size),
        max_sequence_length=arch.max_position_embeddings,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=arch.tied_embeddings,
        **rotary_arguments(arch),
    )
