"""The run as a whole, and where its numbers go."""

from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt

from mindrl.config.base import Section, Seed


class TrainerConfig(Section):
    """Length, rhythm and output of the run."""

    global_batch_size: PositiveInt
    """Prompts per step; each gets `rollout.n_samples` responses."""
    total_steps: PositiveInt
    """Steps of the run."""
    save_interval: NonNegativeInt = 0
    """Steps between checkpoints; the last step is always saved. 0: only the last."""
    keep_last: PositiveInt | None = None
    """Checkpoints of the run to keep; older ones are deleted once a newer one is complete. null: all."""
    eval_interval: NonNegativeInt = 0
    """Steps between evaluations on `data.eval`; 0: none."""
    sample_interval: NonNegativeInt = 50
    """Steps between files of sampled responses (the first and last step are always written); 0: only those two."""
    seed: Seed = 0
    """Seed of everything random in the run except the order of the prompts."""
    output_dir: Path
    """Run directory; must hold no earlier run unless `--overwrite` is given."""


class LoggingConfig(Section):
    """Metrics beyond metrics.jsonl, which is always written."""

    tensorboard: bool = True
    """Write TensorBoard event files under logs/tensorboard."""
    enable_wandb: bool = False
    """Send metrics to Weights & Biases; the environment variable enable_wandb=True does the same."""
    wandb_project: str = "mindrl"
    """Project name there; the environment variable wandb_project overrides it."""
