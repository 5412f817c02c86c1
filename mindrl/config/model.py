"""Which model is trained."""

from pathlib import Path

from mindrl.config.base import Section


class ModelConfig(Section):
    """The model: a Hugging Face directory, and optionally a Megatron checkpoint to take the weights from."""

    path: Path
    """Hugging Face directory: config.json, tokenizer files and (unless `checkpoint` is given) safetensors weights."""
    checkpoint: Path | None = None
    """Megatron `torch_dist` checkpoint directory (as `mindrl convert` writes it) that holds the initial weights."""
    architecture: Path | None = None
    """A config.json, or a directory with one, for `mindrl plan` without weights; those of the supported models are
    under configs/model. Where `path` holds a config.json too, that counts, and both must have the same shape."""
