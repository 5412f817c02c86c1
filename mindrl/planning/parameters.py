"""How many parameters a model has, and how many of them each rank of a layout holds.

Tensor parallelism cuts projections and the vocabulary; norms, routers and the down-projections of latent attention
are whole on every rank. Pipeline parallelism deals out layers. Expert parallelism deals out the routed experts, each
of which tensor parallelism cuts like any MLP. Context and data parallelism copy everything.
"""

from dataclasses import astuple, dataclass
from typing import Self

from mindrl.config.actor import ActorConfig
from mindrl.planning.stages import stage_layers
from mindrl.weight_maps import Architecture, LatentAttention


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Parameters by what they belong to."""

    embedding: int = 0
    attention: int = 0
    """Projections and their biases."""
    mlp: int = 0
    """Plain MLPs and shared experts."""
    experts: int = 0
    """Routed experts: the only part that expert parallelism deals out, with data parallel groups of its own."""
    router: int = 0
    norms: int = 0
    output: int = 0
    """Output layer; with tied embeddings, the last stage's copy of the embedding where that is on another stage."""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(astuple(self))

    @property
    def outside_experts(self) -> int:
        """What every data-parallel copy of the actor holds whole."""
        return self.total - self.experts

    def __add__(self, other: Self) -> Self:
        return type(self)(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


SHARED_BY = {
    "embedding": ("TP",),
    "attention": ("TP",),
    "mlp": ("TP",),
    "experts": ("TP", "EP"),
    "router": (),
    "norms": (),
    "output": ("TP",),
}
"""Which of the parallel sizes cut each part inside a pipeline stage; the down-projections of latent attention, which
belong to attention, are not cut."""


def model_parameters(architecture: Architecture) -> ParameterCounts:
    """The whole model: nothing cut, nothing padded, tied embeddings counted once."""
    layers = (layer_parameters(architecture, layer) for layer in range(architecture.num_layers))
    table = architecture.vocab_size * architecture.hidden_size
    ends = ParameterCounts(
        embedding=table, norms=architecture.hidden_size, output=0 if architecture.tied_embeddings else table
    )
    return sum(layers, start=ends)


def active_parameters(architecture: Architecture) -> int:
    """Parameters that one token uses: of the routed experts, `experts_per_token` a layer."""
    whole, moe = model_parameters(architecture), architecture.experts
    if moe is None:
        return whole.total
    return whole.outside_experts + whole.experts * moe.experts_per_token // moe.num_experts


def padded_vocab_size(architecture: Architecture, tensor_parallel_size: int) -> int:
    """Rows of the embedding in training: no more padding than equal shards need, as checkpoints are layout-free."""
    return -(-architecture.vocab_size // tensor_parallel_size) * tensor_parallel_size


def rank_parameters(architecture: Architecture, actor: ActorConfig) -> tuple[ParameterCounts, ...]:
    """What a rank of each pipeline stage holds in training; all ranks of a stage hold as many.

    For layouts that `mindrl.planning.check_model` accepts."""
    return tuple(
        stage_parameters(
            architecture,
            layers,
            first=stage == 0,
            last=stage == actor.pipeline_model_parallel_size - 1,
            tensor_parallel_size=actor.tensor_model_parallel_size,
            expert_parallel_size=actor.expert_model_parallel_size,
        )
        for stage, layers in enumerate(stage_layers(architecture.num_layers, actor))
    )


def stage_parameters(
    architecture: Architecture,
    layers: range,
    *,
    first: bool,
    last: bool,
    tensor_parallel_size: int = 1,
    expert_parallel_size: int = 1,
) -> ParameterCounts:
    """One rank's shard of a stage: its layers, and the embedding and the output where the stage has them."""
    rows = padded_vocab_size(architecture, tensor_parallel_size) // tensor_parallel_size
    table = rows * architecture.hidden_size
    ends = ParameterCounts(
        embedding=table if first else 0,
        norms=architecture.hidden_size if last else 0,
        output=table if last and not (architecture.tied_embeddings and first) else 0,
    )
    shards = (
        layer_parameters(
            architecture,
            layer,
            tensor_parallel_size=tensor_parallel_size,
            expert_parallel_size=expert_parallel_size,
        )
        for layer in layers
    )
    return sum(shards, start=ends)


def layer_parameters(
    architecture: Architecture, layer: int, *, tensor_parallel_size: int = 1, expert_parallel_size: int = 1
) -> ParameterCounts:
    """One rank's shard of a decoder layer."""
    tp, hidden = tensor_parallel_size, architecture.hidden_size
    latent, moe = architecture.latent_attention, architecture.experts
    if latent is None:
        attention, head_norms = _grouped_query_attention(architecture, tp)
    else:
        attention, head_norms = _latent_attention(architecture, latent, tp)
    norms = 2 * hidden + head_norms
    if moe is None or not architecture.has_experts(layer):
        return ParameterCounts(
            attention=attention, norms=norms, mlp=_gated_mlp(hidden, architecture.intermediate_size, tp)
        )
    return ParameterCounts(
        attention=attention,
        norms=norms,
        mlp=_gated_mlp(hidden, moe.shared_intermediate_size, tp),
        experts=moe.num_experts // expert_parallel_size * _gated_mlp(hidden, moe.intermediate_size, tp),
        router=moe.num_experts * hidden,
    )


def _grouped_query_attention(architecture: Architecture, tp: int) -> tuple[int, int]:
    """Projections, and norms on heads."""
    hidden, head_dim = architecture.hidden_size, architecture.head_dim
    query, key_value = architecture.num_heads * head_dim // tp, architecture.num_kv_heads * head_dim // tp
    projections = (2 * query + 2 * key_value) * hidden
    biases = query + 2 * key_value if architecture.qkv_bias else 0
    return projections + biases, 2 * head_dim if architecture.qk_norm else 0


def _latent_attention(architecture: Architecture, latent: LatentAttention, tp: int) -> tuple[int, int]:
    """Projections, and norms on the short vectors; down-projections are whole on every rank."""
    hidden, heads = architecture.hidden_size, architecture.num_heads // tp
    query = heads * architecture.head_dim
    if latent.q_lora_rank is None:
        queries, query_norm = hidden * query, 0
    else:
        queries, query_norm = latent.q_lora_rank * (hidden + query), latent.q_lora_rank
    down = hidden * (latent.kv_lora_rank + latent.qk_rope_head_dim)
    up = latent.kv_lora_rank * heads * (latent.qk_nope_head_dim + latent.v_head_dim)
    output = heads * latent.v_head_dim * hidden
    return queries + down + up + output, query_norm + latent.kv_lora_rank


def _gated_mlp(hidden: int, width: int, tp: int) -> int:
    """Gate, up and down."""
    return 3 * hidden * (width // tp)
