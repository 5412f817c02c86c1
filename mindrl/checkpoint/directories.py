"""Checkpoint directories: which iteration is the latest, and what may be replaced.

MCORE/latest_checkpointed_iteration.txt    "release" or the iteration's number, written last
MCORE/release/                             converted weights
MCORE/iter_0000010/                        saved by training after 10 steps
MCORE/hf/                                  config.json and tokenizer files of the model
"""

import os
import re
import shutil
from pathlib import Path

from mindrl.errors import RequestError
from mindrl.files import require_place_for

TRACKER_NAME = "latest_checkpointed_iteration.txt"
RELEASE = "release"
HF_NAME = "hf"


def iteration_name(iteration: int) -> str:
    """Directory name of a trained checkpoint."""
    return f"iter_{iteration:07d}"


def latest_checkpoint(directory: Path) -> Path:
    """The `torch_dist` directory that a checkpoint directory's tracker points at.

    A `torch_dist` directory itself (`.../iter_0000010`) is also accepted."""
    path = latest_weights(directory)
    if not (path / ".metadata").exists():
        raise RequestError(
            f"{path} has a file for each rank, in the layout from before torch_dist, which is read by `mindrl convert` "
            "only: make a Hugging Face directory of it, and a checkpoint of that."
        )
    return path


def latest_weights(directory: Path) -> Path:
    """The same for weights in either layout: `torch_dist`, or the older one with a file for each rank."""
    if _holds_weights(directory):
        return directory
    tracker = directory / TRACKER_NAME
    if not tracker.exists():
        raise RequestError(
            f"{directory} is not a checkpoint directory: it has neither {TRACKER_NAME} nor .metadata nor mp_rank_*."
        )
    latest = tracker.read_text(encoding="utf-8", errors="replace").strip()
    if latest != RELEASE and not re.fullmatch("[0-9]{1,18}", latest):
        raise RequestError(f"{tracker} says {latest!r}, expected '{RELEASE}' or a number.")
    path = directory / (RELEASE if latest == RELEASE else iteration_name(int(latest)))
    if not _holds_weights(path):
        raise RequestError(
            f"{tracker} points at {path}, which is no checkpoint: it has neither .metadata nor mp_rank_*."
        )
    return path


def holds_rank_files(checkpoint: Path) -> bool:
    """Whether a checkpoint's own directory has a directory for each rank, `mp_rank_00...`."""
    return not (checkpoint / ".metadata").exists() and any(checkpoint.glob("mp_rank_*"))


def _holds_weights(checkpoint: Path) -> bool:
    return (checkpoint / ".metadata").exists() or holds_rank_files(checkpoint)


def latest_iteration(directory: Path) -> tuple[Path, int]:
    """The checkpoint that training saved last in `directory`, by its tracker, and after which step."""
    path = latest_checkpoint(directory)
    found = re.fullmatch("iter_([0-9]{7,})", path.name)
    if found is None:
        raise RequestError(f"{path} holds converted weights, not a checkpoint saved by training.")
    return path, int(found[1])


def remove_checkpoint(path: Path) -> None:
    """Delete a trained checkpoint: first out of sight, so that an interruption leaves no half of it."""
    if path.is_symlink() or not (path / ".metadata").exists():
        return  # gone, or no longer what training saved
    doomed = path.with_name(f".{path.name}.removed")
    path.rename(doomed)
    shutil.rmtree(doomed)


def remove_leftovers(directory: Path) -> None:
    """Delete what saves and deletions that were killed have left half-done."""
    for path in directory.glob(".iter_*"):
        if re.fullmatch(r"\.iter_[0-9]{7,}\.(partial|replaced|removed)", path.name):
            shutil.rmtree(path)


def put_on_disk(directory: Path) -> None:
    """Have every file of `directory` reach the disk: a name that outlives a power cut should not stand for nothing."""
    for path in (*directory.iterdir(), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def hf_directory(checkpoint: Path) -> Path:
    """Where config and tokenizer files lie that belong to a `torch_dist` directory."""
    return checkpoint.parent / HF_NAME


def write_tracker(directory: Path, content: str) -> None:
    """Point the tracker at a checkpoint, in one step."""
    temporary = directory / f".{TRACKER_NAME}.partial"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(directory / TRACKER_NAME)


def refuse_existing(target: Path, overwrite: bool, marker: str) -> None:
    """`RequestError` unless `target` is free, empty, or may be replaced: with `overwrite`, where it holds `marker`
    (so that no stranger's directory is deleted) and no checkpoint saved by training."""
    require_place_for(target, "--save-dir")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise RequestError(f"{target} exists. Choose another --save-dir, or give --overwrite to replace it.")
    if not (target / marker).exists():
        raise RequestError(f"{target} exists and has no {marker} in it, so --overwrite does not replace it.")
    trained = sorted(path.name for path in target.glob("iter_*"))
    if trained:
        raise RequestError(
            f"{target} holds checkpoints saved by training ({', '.join(trained)}), so --overwrite does not "
            "replace it: remove them yourself or choose another --save-dir."
        )
