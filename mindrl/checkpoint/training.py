"""Saving and loading of a training backend's state through Megatron's `dist_checkpointing`, at any layout.

All calls are collective over the default process group. The checkpoint directory has to be the same file system for
all ranks. Directory layout: `mindrl.checkpoint.directories`.
"""

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.strategies.base import SaveShardedStrategy
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from megatron.core.dist_checkpointing.validation import StrictHandling
from torch.distributed.checkpoint import CheckpointException, FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from mindrl.checkpoint import directories
from mindrl.checkpoint.companions import find_companions
from mindrl.checkpoint.formats.torch_archives import find_damage
from mindrl.checkpoint.formats.torch_dist import read_archives
from mindrl.errors import RequestError


def save_checkpoint(directory: Path, iteration: int, state: Mapping[str, Any], hf_dir: Path) -> Path:
    """Save `state` (a `TrainBackend.state()`, further plain values allowed) as `directory/iter_NNNNNNN`.

    Config and tokenizer files of `hf_dir` go to `directory/hf`. The new checkpoint appears complete or not at all;
    the tracker file is written last. An earlier checkpoint of the same iteration is replaced. Returns its path.
    `OSError` where the disk refuses; the earlier checkpoints are as they were."""
    target = directory / directories.iteration_name(iteration)
    temporary = directory / f".{target.name}.partial"
    _on_first_rank(lambda: _make_empty(temporary))
    try:
        dist_checkpointing.save(
            {**state, "iteration": iteration, "checkpoint_version": 3.0},
            str(temporary),
            sharded_strategy=InProcessSave(),
            content_metadata=_content_metadata(state),
        )
        _on_first_rank(lambda: _publish(temporary, target, hf_dir, iteration))
    except (CheckpointException, OSError, RuntimeError) as error:
        refusal = _what_the_disk_said(error, temporary)
        if refusal is None:
            raise
        raise refusal from error
    finally:
        if dist.get_rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def load_checkpoint(directory: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """Fill `state` from the latest checkpoint in `directory`, converted (`release/`) or trained (`iter_*`).

    `state` says which parts of which tensors this rank holds (a `TrainBackend.state()`), and may be a part of what was
    saved; None stands for a plain value. Returns the same keys with values in place of their descriptions, for
    `TrainBackend.load_state`.
    `RequestError` if the checkpoint is damaged or has not what is asked for."""
    checkpoint = directories.latest_checkpoint(directory)
    _check_integrity(checkpoint, with_optimizer="optimizer" in state)
    try:
        loaded = dist_checkpointing.load(dict(state), str(checkpoint), strict=StrictHandling.RAISE_UNEXPECTED)
    except CheckpointingException as error:
        raise RequestError(f"{checkpoint} does not hold the state asked for: {error}") from error
    if missing := [key for key in state if key not in loaded]:
        raise RequestError(f"{checkpoint} does not hold the state asked for: no {', '.join(missing)}")
    return {key: loaded[key] for key in state}


def _check_integrity(checkpoint: Path, *, with_optimizer: bool) -> None:
    """torch reads payloads without looking at their checksums, so every rank looks at its share of them."""
    archives = [
        archive
        for archive in read_archives(checkpoint)
        if with_optimizer or not archive.key.startswith("optimizer.")
    ]
    damage: list[str | None] = [None] * dist.get_world_size()
    mine = archives[dist.get_rank() :: dist.get_world_size()]
    dist.all_gather_object(damage, next(find_damage(checkpoint, mine), None))
    if found := next((sentence for sentence in damage if sentence), None):
        raise RequestError(f"{found} Use another checkpoint of the run, or convert the weights anew.")


class InProcessSave(SaveShardedStrategy):
    """Writes this rank's shards from this process.

    Megatron's own strategy forks writer processes and starts a manager process even for a synchronous save: they
    outlive a killed trainer, are not allowed in daemonic processes, and one that dies makes the save hang."""

    def __init__(self) -> None:
        super().__init__("torch_dist", 1)

    @property
    def can_handle_sharded_objects(self) -> bool:
        return True

    def save(self, sharded_state_dict: dict[str, Any], checkpoint_dir: str | Path) -> None:
        by_key, _, _ = _replace_state_dict_keys_with_sharded_keys(
            sharded_state_dict, keep_only_main_replica=True
        )
        save(
            mcore_to_pyt_state_dict(by_key, is_loading=False),
            storage_writer=FileSystemWriter(checkpoint_dir),
            planner=MCoreSavePlanner(
                dedup_replicated_tensors=False,
                flatten_state_dict=False,
                can_run_decentralized_global_plan=False,
            ),
        )


def _content_metadata(state: Mapping[str, Any]) -> dict[str, Any]:
    """How optimizer state is cut: as Megatron does where it is to load in another layout, a tensor per moment."""
    return {"distrib_optim_sharding_type": "fully_reshardable"} if "optimizer" in state else {}


def _what_the_disk_said(error: BaseException, directory: Path) -> OSError | None:
    """The `OSError` behind a failed save, whichever rank had it and however torch wrapped it."""
    failures = error.failures.values() if isinstance(error, CheckpointException) else ((error, None),)
    for failure, _ in failures:
        while failure is not None:
            if isinstance(failure, OSError) and failure.errno:
                return _incomplete(failure.errno, failure.filename or str(directory))
            failure = failure.__cause__ or failure.__context__
    # torch's own writer hides the reason
    if "PytorchStreamWriter failed writing" in str(error) and shutil.disk_usage(directory).free < 2**20:
        return _incomplete(errno.ENOSPC, str(directory))
    return None


def _incomplete(number: int, path: str) -> OSError:
    reason = f"{os.strerror(number)}; this checkpoint was not written, the earlier ones are as they were"
    return OSError(number, reason, path)


def _make_empty(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)


def _publish(temporary: Path, target: Path, hf_dir: Path, iteration: int) -> None:
    find_companions(hf_dir).write(directories.hf_directory(target))
    directories.put_on_disk(temporary)
    replaced = target.parent / f".{target.name}.replaced"
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        target.rename(replaced)
    temporary.rename(target)
    directories.write_tracker(target.parent, str(iteration))
    shutil.rmtree(replaced, ignore_errors=True)


def _on_first_rank(action: Callable[[], None]) -> None:
    """Run `action` on rank 0 while the others wait; if it fails, every rank fails with its error."""
    outcome: list[OSError | RequestError | None] = [None]
    if dist.get_rank() == 0:
        try:
            action()
        except (OSError, RequestError) as error:
            outcome = [error]
    dist.broadcast_object_list(outcome, src=0)
    if outcome[0] is not None:
        raise outcome[0]
