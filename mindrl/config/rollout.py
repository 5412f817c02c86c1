"""Generation of responses, and the rules that score them."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from mindrl.config.base import Section


class RolloutConfig(Section):
    """How responses are sampled."""

    engine: Literal["auto", "vllm", "hf", "replay"] = "auto"
    """`vllm`, `hf` (transformers), `auto` (vLLM where it can run, else hf, announced in one line), or `replay`: the
    samples of an earlier run again, so that what computes can be compared number by number."""
    replay_from: Path | None = None
    """Run directory whose samples `engine: replay` gives; that run had `trainer.sample_interval: 1`."""
    n_samples: PositiveInt
    """Responses per prompt: the group size of GRPO."""
    temperature: float = Field(default=1.0, gt=0.0, le=2.0)
    """Sampling temperature; training log-probs use the same."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Nucleus sampling; below 1 the rollout distribution is not the policy, so training refuses it."""
    top_k: int = -1
    """Largest number of candidate tokens (-1: all); training refuses anything else, for the same reason."""
    tensor_parallel_size: PositiveInt = 1
    """Devices that share one rollout engine."""
    gpu_memory_utilization: float = Field(default=0.4, gt=0.0, lt=1.0)
    """Share of device memory the engine may use; no effect on CPU."""
    logprob_gap_warn: PositiveFloat = 0.1
    """Warn when the largest |log p_train - log p_rollout| of a step exceeds this."""
    logprob_gap_stop: PositiveFloat = 5.0
    """Stop the run, before the optimizer step, when it exceeds this."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Passed to vLLM's EngineArgs as they are; names that it lacks, or that the engine sets itself, are refused."""


class RewardFunctionConfig(Section):
    """One rule that scores responses."""

    name: str
    """A name of docs/data.md, or your own function as `package.module:function`."""
    weight: float = 1.0
    """Factor of its score in the reward."""


class RewardConfig(Section):
    """Rule rewards, computed in processes that can be killed."""

    functions: tuple[RewardFunctionConfig, ...] = Field(min_length=1)
    """The rules; the reward is the weighted sum of their scores."""
    timeout_seconds: PositiveFloat = 10.0
    """Time one response may take to score; then its process is killed, the score is 0 and it is counted."""
    workers: PositiveInt = 1
    """Scoring processes."""


class EvaluationConfig(Section):
    """Evaluation during training (`trainer.eval_interval`); `mindrl eval` has flags of its own."""

    temperature: NonNegativeFloat = 0.0
    """0 is greedy decoding."""
    n_samples: PositiveInt = 1
    """Responses per prompt; their mean score is avg@k."""
