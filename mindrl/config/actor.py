"""The policy that is trained, and the reference policy beside it."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from mindrl.config.base import Section

DecayRate = Annotated[float, Field(ge=0.0, lt=1.0)]


class OptimizerConfig(Section):
    """Optimizer of the actor."""

    name: Literal["adamw"] = "adamw"
    """Algorithm: AdamW (Loshchilov & Hutter 2019)."""
    lr: NonNegativeFloat
    """Peak learning rate."""
    betas: tuple[DecayRate, DecayRate] = (0.9, 0.999)
    """Decay rates of the first and second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay; matrices only, never norms or biases."""
    clip_grad: PositiveFloat = 1.0
    """Largest norm of the global gradient; a larger one is scaled down to it."""


class LrScheduleConfig(Section):
    """Learning rate over the steps of the run; the optimizer steps of one step share it."""

    name: Literal["constant", "linear", "cosine"] = "constant"
    """Shape of the decay after warm-up, down to `min_lr` at the last step."""
    warmup_steps: NonNegativeInt = 0
    """Training steps over which the rate rises linearly from near zero."""
    min_lr: NonNegativeFloat = 0.0
    """Learning rate at the end of the decay."""


class ActorConfig(Section):
    """The policy being trained: layout over devices, batches, optimizer."""

    tensor_model_parallel_size: PositiveInt = 1
    """Devices that share every weight matrix."""
    pipeline_model_parallel_size: PositiveInt = 1
    """Devices that share the layers, one stage each."""
    context_parallel_size: PositiveInt = 1
    """Devices that share every sequence; `mindrl plan` takes it, training does not yet."""
    expert_model_parallel_size: PositiveInt = 1
    """Devices that share the experts of a layer, which would otherwise train on other samples or parts of sequences.
    Each expert is cut by `tensor_model_parallel_size` too."""
    sequence_parallel: bool = False
    """Split norms and residuals along the sequence between tensor-parallel devices."""
    micro_batch_size: PositiveInt
    """Samples per device in one forward pass."""
    mini_batch_size: PositiveInt
    """Prompts (with all their samples) per optimizer step."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of weights and activations in training; optimizer and gradients are float32."""
    optimizer: OptimizerConfig
    lr_schedule: LrScheduleConfig = LrScheduleConfig()
    transformer_config: dict[str, Any] = Field(default_factory=dict)
    """Fields of Megatron-core's TransformerConfig, such as `recompute_granularity`; those that it lacks, that have no
    effect here or that another key decides are refused, with a list of the others."""

    @property
    def model_parallel_size(self) -> int:
        """Devices that together train on one micro-batch: a copy of the actor. Experts may be shared by several."""
        return (
            self.tensor_model_parallel_size * self.pipeline_model_parallel_size * self.context_parallel_size
        )


class ReferenceConfig(Section):
    """The frozen policy that KL is measured against; exists only when `algorithm.kl.coef` > 0. Null says that there is
    none, and is refused where that does not hold."""

    micro_batch_size: PositiveInt | None = None
    """Samples per device in one forward pass; the actor's when left out."""
