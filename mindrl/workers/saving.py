"""A policy's state to disk and back; collective over the workers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindrl.checkpoint.formats.torch_dist import read_keys
from mindrl.checkpoint.training import load_checkpoint, save_checkpoint
from mindrl.config.schema import Config
from mindrl.models.backend import Part
from mindrl.models.megatron.backend import MegatronBackend
from mindrl.workers.messages import Restored

PARTS: tuple[Part, ...] = ("model", "optimizer", "random")
PROGRESS = "progress"
"""What the driver knows, as plain values in the checkpoint."""


def save(
    backend: MegatronBackend, directory: Path, step: int, hf_dir: Path, progress: Mapping[str, Any]
) -> None:
    """Write everything that the next step depends on as `directory/iter_<step>`."""
    save_checkpoint(directory, step, {**backend.state(PARTS), PROGRESS: dict(progress)}, hf_dir)


def restore(backend: MegatronBackend, checkpoint: Path, step: int, config: Config) -> Restored:
    """Inverse of `save`. Generators of another layout mean nothing here: new ones start from seed and step."""
    same_layout = backend.holds_generators(read_keys(checkpoint))
    parts = PARTS if same_layout else ("model", "optimizer")
    wanted = {**backend.state(parts, for_loading=True), PROGRESS: None}
    loaded = load_checkpoint(checkpoint, wanted)
    progress = loaded.pop(PROGRESS)
    backend.load_state(loaded)
    if not same_layout:
        backend.seed_generators(config.trainer.seed, step)
    return Restored(progress, same_layout)
