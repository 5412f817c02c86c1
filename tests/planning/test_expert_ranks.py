"""How experts are dealt out, against a model that Megatron-core builds itself."""

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from megatron.core.transformer import TransformerConfig
from transformers import Qwen3MoeConfig

import hal
from mindrl.models.megatron.device import prepare
from mindrl.planning.parameters import layer_parameters, padded_vocab_size, stage_parameters
from mindrl.weight_maps import Architecture, architecture_of
from tests.distributed import run_distributed

MODEL = architecture_of(
    Qwen3MoeConfig(
        vocab_size=83,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=8,
        num_experts_per_tok=2,
        mlp_only_layers=[0],
        max_position_embeddings=64,
    ).to_dict()
)


def build(arch: Architecture, tensor: int, expert: int) -> dict[str, int]:
    """Parameters of this rank's shard, by name."""
    prepare(hal.choose("cpu"))
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=tensor, expert_model_parallel_size=expert, create_gloo_process_groups=False
    )
    model_parallel_cuda_manual_seed(1)
    config = TransformerConfig(
        num_layers=arch.num_layers,
        hidden_size=arch.hidden_size,
        ffn_hidden_size=arch.intermediate_size,
        num_attention_heads=arch.num_heads,
        num_query_groups=arch.num_kv_heads,
        kv_channels=arch.head_dim,
        qk_layernorm=True,
        normalization="RMSNorm",
        add_bias_linear=False,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        num_moe_experts=arch.experts.num_experts,
        moe_router_topk=arch.experts.experts_per_token,
        moe_ffn_hidden_size=arch.experts.intermediate_size,
        moe_layer_freq=[int(arch.has_experts(layer)) for layer in range(arch.num_layers)],
        moe_token_dispatcher_type="alltoall",
        tensor_model_parallel_size=tensor,
        expert_model_parallel_size=expert,
        transformer_impl="local",
        gradient_accumulation_fusion=False,
        use_cpu_initialization=True,
    )
    model = GPTModel(
        config,
        get_gpt_decoder_block_spec(config, use_transformer_engine=False),
        vocab_size=padded_vocab_size(arch, tensor),
        max_sequence_length=64,
        position_embedding_type="rope",
    )
    return {name: parameter.numel() for name, parameter in model.named_parameters()}


def test_a_rank_holds_its_share_of_the_experts_each_cut_by_tensor_parallelism():
    built = run_distributed(build, 4, MODEL, 2, 2)
    shard = stage_parameters(
        MODEL,
        range(MODEL.num_layers),
        first=True,
        last=True,
        tensor_parallel_size=2,
        expert_parallel_size=2,
    )
    layer = layer_parameters(MODEL, 1, tensor_parallel_size=2, expert_parallel_size=2)
    for rank in built:
        assert sum(rank.values()) == shard.total
        assert (
            sum(size for name, size in rank.items() if ".experts." in name) == shard.experts == layer.experts
        )
        assert sum(size for name, size in rank.items() if "router" in name) == shard.router == layer.router
