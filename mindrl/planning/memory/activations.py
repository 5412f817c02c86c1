"""What the forward pass of one micro-batch keeps for the backward pass, on one rank, in bytes.

Derived op by op from the layers in `mindrl.models.megatron.layers` and the HAL's kernels. For dense models on the
host it equals what torch's saved-tensor hooks count, which a test compares. Experts and latent attention are derived
the same way from Megatron-core's layers and were never measured.
"""

from dataclasses import dataclass

from mindrl.config.actor import ActorConfig
from mindrl.weight_maps import Architecture


@dataclass(frozen=True, slots=True)
class MicroBatchShape:
    """What decides the sizes of one rank's tensors in a pass."""

    tokens: int
    """Rows times longest sequence, divided by the context parallel size."""
    item_size: int
    """Bytes of a number: 2 or 4."""
    tensor_parallel_size: int
    sequence_parallel: bool
    plain_norms: bool
    """torch's RMSNorm is several operators, with float32 copies for narrow types: so on the host."""

    @property
    def tokens_of_norms(self) -> int:
        """Tokens in norms and residuals: sequence parallelism cuts these."""
        return self.tokens // self.tensor_parallel_size if self.sequence_parallel else self.tokens


def stage_activations(
    architecture: Architecture, layers: range, shape: MicroBatchShape, actor: ActorConfig, *, last: bool
) -> int:
    """Bytes that one micro-batch leaves on a stage, with the recomputation that `transformer_config` asks for."""
    settings = actor.transformer_config
    whole = [layer_activations(architecture, layer, shape) for layer in layers]
    norm = _norm(architecture.hidden_size, shape.tokens_of_norms, shape) if last else 0
    if settings.get("recompute_granularity") == "full":
        return _recomputed(whole, architecture, shape, actor) + norm
    if settings.get("recompute_granularity") == "selective":
        modules = settings.get("recompute_modules") or ["core_attn"]
        return norm + sum(
            layer_activations(architecture, layer, shape, without=frozenset(modules)) for layer in layers
        )
    return sum(whole) + norm


def layer_activations(
    architecture: Architecture, layer: int, shape: MicroBatchShape, *, without: frozenset[str] = frozenset()
) -> int:
    """Bytes of one layer; `without` names the modules that are computed again (`recompute_modules`)."""
    hidden, tokens = architecture.hidden_size, shape.tokens_of_norms
    norms = 2 * _norm(hidden, tokens, shape)
    attention = _attention(architecture, shape)
    if "core_attn" in without:
        attention -= _log_sums(architecture, shape)
    if architecture.has_experts(layer):
        mlp = 0 if "moe" in without else _experts(architecture, shape)
    else:
        mlp = 0 if "mlp" in without else _gated_mlp(architecture.intermediate_size, shape.tokens, shape)
    return norms + attention + mlp


def widest_backward(architecture: Architecture, shape: MicroBatchShape) -> int:
    """Gradients that exist at once while one layer's MLP is differentiated: of both halves and of their product."""
    return _gated_mlp(architecture.intermediate_size, shape.tokens, shape)


def _recomputed(
    whole: list[int], architecture: Architecture, shape: MicroBatchShape, actor: ActorConfig
) -> int:
    """Inputs of the pieces, and the whole of the largest piece while it is computed again."""
    settings = actor.transformer_config
    entry = architecture.hidden_size * shape.tokens_of_norms * shape.item_size
    if settings.get("distribute_saved_activations"):
        entry //= shape.tensor_parallel_size
    size = int(settings.get("recompute_num_layers") or 1)
    if settings.get("recompute_method") == "block":
        again, kept = whole[:size], whole[size:]
        return sum(kept) + len(again) * entry + max(again, default=0)
    pieces = [sum(whole[start : start + size]) for start in range(0, len(whole), size)]
    return len(pieces) * entry + max(pieces, default=0)


def _norm(width: int, tokens: int, shape: MicroBatchShape) -> int:
    """Input, and the output, which the projection behind it keeps; on the host the normalised input too."""
    inside = 2 * 4 * width + 4 if shape.plain_norms else shape.item_size * width + 4
    return tokens * (inside + shape.item_size * width)


def _attention(architecture: Architecture, shape: MicroBatchShape) -> int:
    """Projections, turned queries and keys, output. No provider keeps the matrix of probabilities."""
    tp, latent = shape.tensor_parallel_size, architecture.latent_attention
    heads, head_dim = architecture.num_heads // tp, architecture.head_dim
    per_token = shape.item_size
    if latent is None:
        query, key = heads * head_dim, max(1, architecture.num_kv_heads // tp) * head_dim
        # The value is a view of the joint projection, which therefore stays as a whole.
        width = (query + 2 * key) + query + key + query
        norms = _head_norms(architecture, query, key, shape) if architecture.qk_norm else 0
    else:
        query, value = heads * head_dim, heads * latent.v_head_dim
        up = heads * (latent.qk_nope_head_dim + latent.v_head_dim)
        width = (latent.q_lora_rank or 0) + query + latent.kv_lora_rank + latent.qk_rope_head_dim
        width += up + 2 * query + 2 * value
        norms = _norm(latent.kv_lora_rank + (latent.q_lora_rank or 0), shape.tokens, shape)
    return shape.tokens * width * per_token + norms + _log_sums(architecture, shape)


def _head_norms(architecture: Architecture, query: int, key: int, shape: MicroBatchShape) -> int:
    """Norms over heads: what they keep, and one statistic a head; their outputs live on only as turned ones.

    Queries are cut out of the joint projection by a copy, keys are a view of it."""
    heads = (query + key) // architecture.head_dim
    inputs = query * shape.item_size
    if shape.plain_norms:
        inputs = 4 * (query + key) + (4 * (query + key) if shape.item_size < 4 else 4 * query)
    return shape.tokens * (inputs + 4 * heads)


def _log_sums(architecture: Architecture, shape: MicroBatchShape) -> int:
    return shape.tokens * architecture.num_heads // shape.tensor_parallel_size * 4


def _gated_mlp(width: int, tokens: int, shape: MicroBatchShape) -> int:
    """Both halves, the activated gate, and the product."""
    return tokens * 4 * (width // shape.tensor_parallel_size) * shape.item_size


def _experts(architecture: Architecture, shape: MicroBatchShape) -> int:
    """Router, tokens sorted by expert before and after the exchange, experts, their outputs; tokens spread evenly."""
    moe = architecture.experts
    assert moe is not None
    routed, hidden = shape.tokens_of_norms * moe.experts_per_token, architecture.hidden_size
    router = shape.tokens_of_norms * moe.num_experts * 4 * 2
    moved = 3 * routed * hidden * shape.item_size
    gathered = routed * (shape.tensor_parallel_size if shape.sequence_parallel else 1)
    shared = _gated_mlp(moe.shared_intermediate_size, shape.tokens, shape)
    return router + moved + _gated_mlp(moe.intermediate_size, gathered, shape) + shared
