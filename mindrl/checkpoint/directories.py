"""Checkpoint directories: which iteration is the latest, and new ones that appear complete or not at all.

MCORE/latest_checkpointed_iteration.txt    "release" or the iteration's number, written last
MCORE/release/                             converted weights
MCORE/iter_0000010/                        weights saved by training after 10 steps
MCORE/hf/                                  config.json and tokenizer files of the model
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mindrl.errors import RequestError
from mindrl.files import require_place_for

TRACKER_NAME = "latest_checkpointed_iteration.txt"
RELEASE = "release"
HF_NAME = "hf"
_COMPANION_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_WEIGHT_INDEX_SUFFIX = ".index.json"


def iteration_name(iteration: int) -> str:
    """Directory name of a trained checkpoint."""
    return f"iter_{iteration:07d}"


def latest_checkpoint(directory: Path) -> Path:
    """The `torch_dist` directory that a checkpoint directory's tracker points at.

    A `torch_dist` directory itself (`.../iter_0000010`) is also accepted."""
    if (directory / ".metadata").exists():
        return directory
    tracker = directory / TRACKER_NAME
    if not tracker.exists():
        raise RequestError(
            f"{directory} is not a checkpoint directory: it has neither {TRACKER_NAME} nor .metadata."
        )
    latest = tracker.read_text(encoding="utf-8", errors="replace").strip()
    if latest != RELEASE and not re.fullmatch("[0-9]{1,18}", latest):
        raise RequestError(f"{tracker} says {latest!r}, expected '{RELEASE}' or a number.")
    path = directory / (RELEASE if latest == RELEASE else iteration_name(int(latest)))
    if not (path / ".metadata").exists():
        raise RequestError(f"{tracker} points at {path}, which is not a torch_dist checkpoint.")
    return path


def hf_directory(checkpoint: Path) -> Path:
    """Where config and tokenizer files lie that belong to a `torch_dist` directory."""
    return checkpoint.parent / HF_NAME


def companion_files(hf_dir: Path) -> list[Path]:
    """Config, tokenizer and generation files of a Hugging Face directory: everything small but the weights."""
    return sorted(
        path
        for path in hf_dir.iterdir()
        if path.is_file()
        and path.suffix in _COMPANION_SUFFIXES
        and not path.name.endswith(_WEIGHT_INDEX_SUFFIX)
    )


def write_tracker(directory: Path, content: str) -> None:
    """Point the tracker at a checkpoint, in one step."""
    temporary = directory / f".{TRACKER_NAME}.{os.getpid()}"
    temporary.write_text(content, encoding="utf-8")
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


@contextmanager
def appearing_at(target: Path) -> Iterator[Path]:
    """A temporary sibling of `target` to write into; renamed to it at the end, removed on any failure.

    What was at `target` is replaced; check with `refuse_existing` first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.partial-{os.getpid()}"
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            old = target.parent / f".{target.name}.replaced-{os.getpid()}"
            target.rename(old)
            temporary.rename(target)
            shutil.rmtree(old)
        else:
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
