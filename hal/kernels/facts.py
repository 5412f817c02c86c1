"""What is known about a model before its first step, and decides which kernels can serve it."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFacts:
    """Facts that stay the same for the whole run: a kernel that changes inside a run is a bug, because the ratio of
    two log-probs then compares kernels instead of policies."""

    dtype: torch.dtype
    """Of activations and of the weights that are multiplied with them."""
    head_dim: int
    """Of query and key."""
    num_heads: int
    """Query heads on this rank."""
    num_kv_heads: int
    """Key and value heads on this rank; divides `num_heads`."""
    hidden_size: int
    vocab_size: int
    """Rows of the vocabulary, unpadded, over all ranks."""
    value_head_dim: int | None = None
    """None: as `head_dim`."""
    packed: bool = False
    """Attention is called on packed sequences too, not only on dense batches."""
    context_parallel_size: int = 1
    """Above 1, attention is called with fewer queries than keys too (`hal.kernels.context_parallel`)."""
    dropout: float = 0.0
    """Of attention probabilities, in training."""
    rotary_interleaved: bool = False
    num_experts: int | None = None
    """On this rank; None: the model has no experts."""
    expert_size: int | None = None
    """Features between the two products of one expert, on this rank."""
    experts_per_token: int | None = None
    """Every token goes to exactly this many; None: not known, or it differs, as where tokens are dropped."""
    own_optimizer: bool = False
    """The optimizer step is the selection's `adamw`."""

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"{self.num_heads} query heads can't share {self.num_kv_heads} key/value heads; the former must be a "
                "multiple of the latter"
            )
        if (self.num_experts is None) != (self.expert_size is None):
            raise ValueError(
                f"num_experts is {self.num_experts} and expert_size {self.expert_size}; a model has both or neither"
            )

    @property
    def values_differ(self) -> bool:
        """Value heads have another size than query and key heads."""
        return self.value_head_dim not in (None, self.head_dim)
