"""Run by any interpreter that has torch and megatron-core: loads a whole checkpoint with Megatron's own
`dist_checkpointing` and saves it anew. Prints torch's version and a digest of every tensor as JSON.

python resave.py CHECKPOINT NEW_CHECKPOINT
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.serialization import load_sharded_metadata
from megatron.core.dist_checkpointing.strategies.base import SaveShardedStrategy
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save


class InProcess(SaveShardedStrategy):
    """As training saves: Megatron's own writer starts processes, and asks for a device."""

    can_handle_sharded_objects = True

    def save(self, sharded_state_dict: dict[str, Any], checkpoint_dir: str) -> None:
        by_key, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict, True)
        planner = MCoreSavePlanner(
            dedup_replicated_tensors=False, flatten_state_dict=False, can_run_decentralized_global_plan=False
        )
        save(
            mcore_to_pyt_state_dict(by_key, False),
            storage_writer=FileSystemWriter(checkpoint_dir),
            planner=planner,
        )


def main(source: str, target: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        wanted = load_sharded_metadata(source)
        found = dist_checkpointing.load(wanted, source)
        state: dict[str, object] = {}
        for key, described in wanted.items():
            if isinstance(described, ShardedTensor):
                state[key] = ShardedTensor.from_rank_offsets(key, found[key])
            else:
                described.data = found[key]
                state[key] = described
        Path(target).mkdir()
        common = {key: value for key, value in found.items() if key not in wanted}
        dist_checkpointing.save({**common, **state}, target, InProcess("torch_dist", 1))
        dist.destroy_process_group()
    digests = {
        key: hashlib.sha256(value.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for key, value in found.items()
        if isinstance(value, torch.Tensor) and value.ndim
    }
    print(json.dumps({"torch": torch.__version__, "digests": digests, "objects": len(wanted) - len(digests)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
