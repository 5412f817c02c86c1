"""Tiny Qwen3-MoE and DeepSeek-V3 models (experts, latent attention) in transformers and, with the same weights, in
Megatron-core, with packed sequences and context parallelism, which `MegatronBackend` does not have. Names and cuts are
matched here, by other means than the weight maps."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
import transformers
from megatron.core import parallel_state
from megatron.core.optimizer import ChainedOptimizer
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer import MLATransformerConfig, TransformerConfig

import hal
from hal.kernels.context_parallel import zigzag
from mindrl.config.actor import OptimizerConfig
from mindrl.models.megatron import optimizer_state
from mindrl.models.megatron.device import prepare
from mindrl.models.megatron.layers import decoder_spec, use_rotary_kernel
from mindrl.models.megatron.model import PolicyModel
from mindrl.models.megatron.optimizer import build_optimizer, data_parallel
from mindrl.models.megatron.random_state import seed_generators
from mindrl.models.megatron.transformer_config import FIXED

Named = dict[str, torch.Tensor]

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
}
NUM_EXPERTS = 4
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
DENSE_LAYERS = 1  # of the DeepSeek models, before the layers with experts
KINDS = ("qwen3-moe", "deepseek-v3", "deepseek-v3-yarn")
LENGTH, NUM_ROWS, NUM_MICRO_BATCHES = 16, 8, 2


@dataclass(frozen=True)
class Layout:
    """How a model lies on the processes there are; the rest is data parallel."""

    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    expert: int = 1
    expert_tensor: int = 1


# transformers' side.


def hf_model(kind: str) -> torch.nn.Module:
    """In float32, with norms and biases away from their initial values."""
    if kind == "qwen3-moe":
        config = transformers.Qwen3MoeConfig(
            **SIZES, num_key_value_heads=2, head_dim=16, num_experts=NUM_EXPERTS
        )
    else:
        config = transformers.DeepseekV3Config(
            **SIZES,
            num_key_value_heads=4,
            n_routed_experts=NUM_EXPERTS,
            n_shared_experts=1,
            n_group=1,
            topk_group=1,
            first_k_dense_replace=DENSE_LAYERS,
            q_lora_rank=24,
            kv_lora_rank=16,
            qk_nope_head_dim=16,
            qk_rope_head_dim=8,
            v_head_dim=12,
            routed_scaling_factor=2.5,
            rope_parameters=YARN if kind.endswith("yarn") else {"rope_type": "default", "rope_theta": 1e4},
        )
    config._attn_implementation = "eager"
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.normal_(0, 0.15)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(0, 0.3)
    return model


def token_rows(seed: int = 0) -> torch.Tensor:
    """[NUM_ROWS, LENGTH + 1]: inputs, and one later the targets."""
    return torch.randint(0, 96, (NUM_ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(seed))


def oracle(kind: str) -> list[dict[str, Any]]:
    """Before the first, second and third step of AdamW: weights, loss (mean over all tokens) and its gradients."""
    model = hf_model(kind)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": ADAMW.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=ADAMW.lr,
        betas=ADAMW.betas,
        eps=ADAMW.eps,
    )
    found: list[dict[str, Any]] = []
    for step in range(3):
        rows = token_rows(step)
        loss = F.cross_entropy(model(rows[:, :-1]).logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        found.append(
            {
                "weights": {name: tensor.detach().clone() for name, tensor in model.state_dict().items()},
                "gradients": {name: p.grad.clone() for name, p in model.named_parameters()},
                "loss": loss.item(),
            }
        )
        optimizer.step()
    return found


ADAMW = OptimizerConfig(lr=0.002, weight_decay=0.1, eps=1e-3)


# Megatron's side.


class MegatronModel:
    """One rank's shard of a tiny model, trainable, on an accelerator. Making one is collective."""

    def __init__(self, kind: str, layout: Layout, accelerator: str = "cpu", **settings: Any) -> None:
        self.accelerator = hal.choose(accelerator)
        self.layout = layout
        prepare(self.accelerator)
        parallel_state.destroy_model_parallel()
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=layout.tensor,
            pipeline_model_parallel_size=layout.pipeline,
            context_parallel_size=layout.context,
            expert_model_parallel_size=layout.expert,
            expert_tensor_parallel_size=layout.expert_tensor,
            create_gloo_process_groups=False,
        )
        seed_generators(11, self.accelerator)
        self.selection = hal.select(self.accelerator, kernel_facts(kind, layout, settings))
        if kind == "qwen3-moe":  # latent attention calls the kernel itself
            use_rotary_kernel(self.selection)
        self.transformer = transformer_config(kind, layout, settings)
        with self.accelerator.device():
            self.model = PolicyModel(
                config=self.transformer,
                transformer_layer_spec=decoder_spec(self.transformer, self.selection),
                vocab_size=SIZES["vocab_size"],
                max_sequence_length=SIZES["max_position_embeddings"],
                pre_process=parallel_state.is_pipeline_first_stage(),
                post_process=parallel_state.is_pipeline_last_stage(),
                share_embeddings_and_output_weights=False,
                position_embedding_type="none" if self.transformer.multi_latent_attention else "rope",
            )
        self.ddp = data_parallel(self.transformer, self.model)
        self.optimizer: ChainedOptimizer = build_optimizer(
            self.ddp, self.transformer, ADAMW, self.selection.adamw
        )

    @torch.no_grad()
    def load(self, weights: Named) -> None:
        """Take this rank's part of transformers' weights."""
        for name, parameter in self.parameters().items():
            parameter.copy_(local_part(name, weights))
        for name, buffer in self.model.named_buffers():
            if name.endswith("expert_bias"):
                buffer.copy_(full_tensor(self._global_name(name), weights)[0])
        self.optimizer.reload_model_params()

    def parameters(self) -> Named:
        """This rank's, named by the layer's place in the whole model."""
        return {self._global_name(name): parameter for name, parameter in self.model.named_parameters()}

    def loss_and_gradients(self, rows: torch.Tensor) -> tuple[float, Named]:
        """Mean loss over all tokens of all ranks, and the gradients of this rank's parameters, on the host."""
        self.ddp.zero_grad_buffer()
        self.optimizer.zero_grad()
        self.model.train()
        rank, size = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
        batches = rows.to(self.accelerator.device()).chunk(size)[rank].chunk(NUM_MICRO_BATCHES)
        losses = get_forward_backward_func()(
            forward_step_func=partial(self._forward, num_tokens=rows[:, 1:].numel()),
            data_iterator=iter(batches),
            model=self.ddp,
            num_microbatches=len(batches),
            seq_length=LENGTH,
            micro_batch_size=len(batches[0]),
            forward_only=False,
        )
        total = torch.tensor(float(sum(losses)), device=self.accelerator.device())
        dist.all_reduce(total)  # data-parallel, context-parallel ranks and stages have parts of it
        gather_gradients(self.ddp)
        gradients = {name: parameter.main_grad.cpu() for name, parameter in self.parameters().items()}
        return total.item() / self.layout.tensor, gradients

    def step(self) -> None:
        """One of AdamW, unclipped."""
        self.optimizer.prepare_grads()
        self.optimizer.step_with_ready_grads()

    def packed_loss_and_gradients(self, sequences: list[torch.Tensor]) -> tuple[float, Named]:
        """Mean loss over the tokens that follow others, all sequences in one row without padding, and its gradients
        of this rank's parameters, on the host. Every model copy would take the same ones: there has to be one."""
        device, context = self.accelerator.device(), parallel_state.get_context_parallel_group()
        lengths = [len(sequence) - 1 for sequence in sequences]
        cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)
        inputs, targets = (
            zigzag(
                torch.cat(parts).to(device),
                rank=context.rank(),
                world_size=context.size(),
                dim=0,
                cu_seqlens=cu_seqlens,
            )
            for parts in ([part[:-1] for part in sequences], [part[1:] for part in sequences])
        )
        packed = PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=cu_seqlens,
            cu_seqlens_kv=cu_seqlens,
            max_seqlen_q=max(lengths),
            max_seqlen_kv=max(lengths),
        )
        self.ddp.zero_grad_buffer()
        hidden = self.ddp(inputs[None], None, None, packed_seq_params=packed)
        loss = -self._log_probs(hidden, targets[None]).sum() / sum(lengths)
        loss.backward()
        self.transformer.finalize_model_grads_func([self.ddp])
        gather_gradients(self.ddp)
        total = loss.detach()
        dist.all_reduce(total, group=context)
        return total.item(), {name: p.main_grad.cpu() for name, p in self.parameters().items()}

    # Checkpoints, as `MegatronBackend` makes and reads them.

    def state(self, *, for_loading: bool = False) -> dict[str, Any]:
        """This rank's shards of weights and optimizer."""
        model = self.model.sharded_state_dict()
        if for_loading:
            optimizer_state.make_moments(self.optimizer)
        return {"model": model, "optimizer": optimizer_state.sharded_state(self.optimizer, model)}

    def load_state(self, state: dict[str, Any]) -> None:
        """What loading made of `state(for_loading=True)`."""
        self.model.load_state_dict(state["model"])
        optimizer_state.load_state(self.optimizer, state["optimizer"])

    def _forward(self, batches: Any, model: torch.nn.Module, *, num_tokens: int) -> tuple[torch.Tensor, Any]:
        rows = next(batches)
        context = parallel_state.get_context_parallel_group()
        tokens, targets = (
            zigzag(part.contiguous(), rank=context.rank(), world_size=context.size(), dim=1)
            for part in (rows[:, :-1], rows[:, 1:])
        )

        def loss(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            total = -self._log_probs(hidden, targets).sum() / num_tokens
            return total, torch.ones((), dtype=torch.int, device=hidden.device), total.detach()

        return model(tokens, None, None), loss

    def _log_probs(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.transformer.sequence_parallel:
            hidden = gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=False)
        log_probs, _ = self.selection.token_log_probs(
            hidden.transpose(0, 1).flatten(0, 1),
            self.model.output_weight(),
            targets.flatten(),
            temperature=1.0,
            vocab_size=SIZES["vocab_size"],
            group=parallel_state.get_tensor_model_parallel_group() if self.layout.tensor > 1 else None,
        )
        return log_probs

    def _global_name(self, name: str) -> str:
        if not name.startswith("decoder.layers."):
            return name
        index, _, rest = name.removeprefix("decoder.layers.").partition(".")
        return f"decoder.layers.{self.model.decoder.layers[int(index)].layer_number - 1}.{rest}"


def transformer_config(kind: str, layout: Layout, settings: dict[str, Any]) -> TransformerConfig:
    """What Megatron calls the model; `settings` come last."""
    common = FIXED | {
        "num_layers": SIZES["num_hidden_layers"],
        "hidden_size": SIZES["hidden_size"],
        "ffn_hidden_size": SIZES["intermediate_size"],
        "num_attention_heads": SIZES["num_attention_heads"],
        "layernorm_epsilon": SIZES["rms_norm_eps"],
        "qk_layernorm": True,
        "params_dtype": torch.float32,
        "pipeline_dtype": torch.float32,
        "tensor_model_parallel_size": layout.tensor,
        "sequence_parallel": layout.tensor > 1,
        "pipeline_model_parallel_size": layout.pipeline,
        "context_parallel_size": layout.context,
        "expert_model_parallel_size": layout.expert,
        "expert_tensor_parallel_size": layout.expert_tensor,
        "num_moe_experts": NUM_EXPERTS,
        "moe_ffn_hidden_size": SIZES["moe_intermediate_size"],
        "moe_router_topk": SIZES["num_experts_per_tok"],
        "moe_router_load_balancing_type": "none",
        "moe_router_dtype": "fp32",
        "moe_token_dispatcher_type": "alltoall",
        "moe_grouped_gemm": True,
    }
    if kind == "qwen3-moe":
        return TransformerConfig(
            **common | {"num_query_groups": 2, "kv_channels": 16, "apply_rope_fusion": True} | settings
        )
    latent = {
        "multi_latent_attention": True,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_head_dim": 16,
        "qk_pos_emb_head_dim": 8,
        "v_head_dim": 12,
        "rope_type": "rope",
        "rotary_base": 1e4,
        "moe_layer_freq": [int(layer >= DENSE_LAYERS) for layer in range(SIZES["num_hidden_layers"])],
        "moe_shared_expert_intermediate_size": SIZES["moe_intermediate_size"],
        "moe_router_score_function": "sigmoid",
        "moe_router_enable_expert_bias": True,
        "moe_router_bias_update_rate": 0.0,
        "moe_router_topk_scaling_factor": 2.5,
    }
    if kind.endswith("yarn"):
        latent |= {"rope_type": "yarn", "rotary_scaling_factor": YARN["factor"]}
        latent |= {name: YARN[name] for name in YARN if name not in ("rope_type", "rope_theta", "factor")}
    return MLATransformerConfig(**common | latent | settings)


def kernel_facts(kind: str, layout: Layout, settings: dict[str, Any]) -> hal.KernelFacts:
    """What the HAL is told of one rank's shard."""
    facts = hal.KernelFacts(
        dtype=torch.float32,
        head_dim=16,
        num_heads=4 // layout.tensor,
        num_kv_heads=2 // layout.tensor,
        hidden_size=SIZES["hidden_size"],
        vocab_size=SIZES["vocab_size"],
        packed=True,
        context_parallel_size=layout.context,
        dropout=settings.get("attention_dropout", 0.0),
        num_experts=NUM_EXPERTS // layout.expert,
        experts_per_token=SIZES["num_experts_per_tok"],
        expert_size=SIZES["moe_intermediate_size"] // layout.expert_tensor,
    )
    if kind == "qwen3-moe":
        return facts
    return replace(
        facts, head_dim=24, value_head_dim=12, num_kv_heads=facts.num_heads, rotary_interleaved=True
    )


def gather_gradients(ddp: Any) -> None:
    """Data-parallel ranks end with the sums of a part of each buffer; put the parts together."""
    for buffer in (*ddp.buffers, *ddp.expert_parallel_buffers):
        group = buffer.data_parallel_group
        for bucket in buffer.buckets:
            shards = bucket.grad_data.chunk(dist.get_world_size(group))
            mine = shards[dist.get_rank(group)].clone()
            dist.all_gather(list(shards), mine, group=group)


# Names and cuts.

RENAMED = {
    "embedding.word_embeddings.weight": ("model.embed_tokens.weight", "rows"),
    "output_layer.weight": ("lm_head.weight", "rows"),
    "decoder.final_layernorm.weight": ("model.norm.weight", ""),
    "input_layernorm.weight": ("input_layernorm.weight", ""),
    "pre_mlp_layernorm.weight": ("post_attention_layernorm.weight", ""),
    "self_attention.linear_proj.weight": ("self_attn.o_proj.weight", "columns"),
    "self_attention.k_layernorm.weight": ("self_attn.k_norm.weight", ""),
    "self_attention.linear_q_down_proj.weight": ("self_attn.q_a_proj.weight", ""),
    "self_attention.linear_q_up_proj.weight": ("self_attn.q_b_proj.weight", "rows"),
    "self_attention.linear_kv_down_proj.weight": ("self_attn.kv_a_proj_with_mqa.weight", ""),
    "self_attention.linear_kv_up_proj.weight": ("self_attn.kv_b_proj.weight", "rows"),
    "self_attention.kv_layernorm.weight": ("self_attn.kv_a_layernorm.weight", ""),
    "mlp.linear_fc2.weight": ("mlp.down_proj.weight", "columns"),
    "mlp.router.weight": ("mlp.gate.weight", ""),
    "mlp.router.expert_bias": ("mlp.gate.e_score_correction_bias", ""),
    "mlp.experts.linear_fc1.weight": ("mlp.experts.gate_up_proj", "gated experts"),
    "mlp.experts.linear_fc2.weight": ("mlp.experts.down_proj", "experts by columns"),
    "mlp.shared_experts.linear_fc2.weight": ("mlp.shared_experts.down_proj.weight", "columns"),
}


def full_tensor(name: str, named: Named) -> tuple[torch.Tensor, str]:
    """A whole tensor under its Megatron name out of transformers' tensors, and how it is cut."""
    prefix, rest = "", name
    if name.startswith("decoder.layers."):
        index, _, rest = name.removeprefix("decoder.layers.").partition(".")
        prefix = f"model.layers.{index}."
    if rest == "self_attention.linear_qkv.weight":
        q, k, v = (named[f"{prefix}self_attn.{part}_proj.weight"].unflatten(0, (2, -1)) for part in "qkv")
        return torch.cat([q, k, v], dim=1).flatten(0, 1), "rows"
    if rest == "self_attention.q_layernorm.weight":
        names = (f"{prefix}self_attn.q_norm.weight", f"{prefix}self_attn.q_a_layernorm.weight")
        return next(named[name] for name in names if name in named), ""
    if rest.endswith("linear_fc1.weight") and "mlp.experts" not in rest:
        home = prefix + rest.removesuffix("linear_fc1.weight")
        return torch.cat([named[f"{home}{part}_proj.weight"] for part in ("gate", "up")]), "gated rows"
    hf_name, cut = RENAMED[rest]
    return named[prefix + hf_name], cut


def local_part(name: str, named: Named) -> torch.Tensor:
    """This rank's part of a tensor under its Megatron name."""
    full, cut = full_tensor(name, named)
    tensor = parallel_state.get_tensor_model_parallel_group()
    if "experts" in cut:
        full = _cut(full, 0, parallel_state.get_expert_model_parallel_group())
        tensor = parallel_state.get_expert_tensor_parallel_group()
    if cut.startswith("gated"):
        dim = full.dim() - 2
        return torch.cat([_cut(half, dim, tensor) for half in full.chunk(2, dim)], dim)
    if cut == "rows":
        return _cut(full, 0, tensor)
    return _cut(full, full.dim() - 1, tensor) if cut.endswith("columns") else full


def _cut(full: torch.Tensor, dim: int, group: dist.ProcessGroup) -> torch.Tensor:
    return full.chunk(group.size(), dim)[group.rank()]


def worst(found: Named, expected: Named) -> tuple[float, str]:
    """Largest max|a - b| / max|b| over this rank's parts, b being the whole tensor, and whose it is."""

    def error(name: str) -> float:
        whole = full_tensor(name, expected)[0].abs().max().item()
        return (found[name].cpu() - local_part(name, expected)).abs().max().item() / whole

    return max((error(name), name) for name in found)
