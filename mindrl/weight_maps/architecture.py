"""What of a model's config.json decides its weights and its forward pass, the same for every family."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mindrl.errors import RequestError
from mindrl.files import read_json_object


@dataclass(frozen=True)
class MixtureOfExperts:
    """MLPs of which each token uses a few (Shazeer et al. 2017), in the layers that have them."""

    num_experts: int
    """Routed experts of a layer."""
    experts_per_token: int
    """How many of them each token goes to."""
    intermediate_size: int
    """Width of one routed expert: gate and up projections have this many rows each."""
    shared_intermediate_size: int
    """Width of the MLP that every token also uses (DeepSeek's shared experts, side by side); 0: there is none."""
    dense_layers: frozenset[int]
    """Layers with one plain MLP of `Architecture.intermediate_size` instead of experts."""
    scoring: Literal["softmax", "sigmoid"]
    """What turns the router's logits into scores."""
    normalize_top_k: bool
    """Scores of the chosen experts are divided by their sum."""
    score_correction_bias: bool
    """A number per expert is added to the scores for choosing, not for weighting (DeepSeek-V3). It is no parameter."""
    routed_scaling_factor: float
    """Factor of the routed experts' sum."""
    num_groups: int
    """Groups of experts among which a token first chooses; 1: no groups."""
    groups_per_token: int
    """Groups that a token chooses from."""


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-AI 2024, DeepSeek-V2): keys and values out of one short vector a token."""

    q_lora_rank: int | None
    """Width of the vector that queries come out of; None: queries are projected from the hidden state directly."""
    kv_lora_rank: int
    """Width of the vector that keys and values come out of; what a cache has to hold, with the rotary part."""
    qk_nope_head_dim: int
    """Part of each query and key head without positions."""
    qk_rope_head_dim: int
    """Part with rotary positions; all heads share this part of the key."""
    v_head_dim: int
    """Width of each value head."""


@dataclass(frozen=True)
class Architecture:
    """A decoder-only language model with gated MLPs, or experts, and grouped-query or latent attention."""

    family: str
    """Name of the family's file, one of `mindrl.weight_maps.FAMILIES`."""
    model_type: str
    """As config.json says it."""
    num_layers: int
    hidden_size: int
    intermediate_size: int
    """Width of the gated MLP: gate and up projections have this many rows each."""
    num_heads: int
    num_kv_heads: int
    """Key and value heads; each serves num_heads / num_kv_heads query heads. With latent attention: num_heads."""
    head_dim: int
    """Width of a query and key head; of a value head too, unless `latent_attention` says otherwise."""
    vocab_size: int
    """Rows of the embedding, unpadded."""
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: Mapping[str, Any] | None
    """None for plain rotary embedding; `{"rope_type": "llama3", "factor": ...}` with Megatron's constants; or
    `{"rope_type": "yarn", ...}` with all of `mindrl.weight_maps.rope.YARN_KEYS`."""
    qkv_bias: bool
    """Query, key and value projections have a bias; no other projection has."""
    qk_norm: bool
    """RMS norm over head_dim on queries and keys."""
    tied_embeddings: bool
    """The output layer is the embedding."""
    dtype: str
    """Type of the weights on disk: one of `mindrl.weight_maps.config_json.DTYPES`."""
    experts: MixtureOfExperts | None = None
    """None: every layer has one plain MLP."""
    latent_attention: LatentAttention | None = None
    """None: grouped-query attention."""
    num_mtp_layers: int = 0
    """Layers after the last one that predict further tokens (DeepSeek-V3); not part of the model that is trained."""
    unsupported: tuple[str, ...] = ()
    """What config.json asks of the forward pass that nothing here computes. Weights can be converted all the same;
    `mindrl.weight_maps.architecture_of` refuses it unless only they are wanted."""

    @property
    def heads_per_group(self) -> int:
        """Query heads that share one key and value head."""
        return self.num_heads // self.num_kv_heads

    @property
    def layers_are_alike(self) -> bool:
        """Whether all layers have the same tensors: then Megatron's checkpoints stack them, else each has its own."""
        return self.experts is None or not self.experts.dense_layers

    def has_experts(self, layer: int) -> bool:
        """Whether this layer, counted from 0, routes its tokens to experts."""
        return self.experts is not None and layer not in self.experts.dense_layers


def read_config(hf_dir: Path) -> dict[str, Any]:
    """The config.json of a Hugging Face directory."""
    path = hf_dir / "config.json"
    if not path.exists():
        raise RequestError(f"{hf_dir} was given as a Hugging Face directory, but {path} does not exist.")
    return read_json_object(path)
