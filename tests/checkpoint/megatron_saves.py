"""A converted model loaded into Megatron-core's own modules on several ranks, and saved again in every way it has."""

import argparse
import multiprocessing
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.serialization import get_default_save_sharded_strategy
from megatron.core.dist_checkpointing.strategies.fully_parallel import FullyParallelSaveStrategyWrapper

from tests.checkpoint.stock_megatron import Layout, StockModel

WAYS: dict[str, dict[str, Any]] = {
    "stacked": {},
    "a key a layer": {"non_homogeneous_layers": True},
    "a key an expert, halves apart": {"singleton_local_shards": True},
}
"""What Megatron-LM calls content metadata, for each way of naming weights in `torch_dist`."""


def save_in_every_way(folder: Path, layout: Layout) -> None:
    """Load `folder/mcore` and save `folder/<way>` for every way, `folder/parallel` and `folder/ranks`; on every rank."""
    # Megatron's writer starts processes of its own, which daemons may not.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    model = StockModel(folder / "hf" / "config.json", layout)
    model.load(folder / "mcore" / "release")
    for way, metadata in WAYS.items():
        save_sharded(model, folder / way, metadata)
    save_sharded(model, folder / "parallel", {}, parallel=True)
    save_by_rank(model, folder / "ranks", layout)


def save_sharded(
    model: StockModel, checkpoint: Path, metadata: dict[str, Any], *, parallel: bool = False
) -> None:
    """As `torch_dist`, with Megatron's own writer; `parallel`: data-parallel ranks each write a part."""
    state: dict[str, Any] = {"iteration": 7}
    for number, chunk in enumerate(model.chunks):
        state[f"model{number}"] = chunk.sharded_state_dict(metadata=metadata)
    strategy = get_default_save_sharded_strategy("torch_dist")
    if parallel:
        strategy = FullyParallelSaveStrategyWrapper(
            strategy, parallel_state.get_data_parallel_group(with_context_parallel=True)
        )
    if dist.get_rank() == 0:
        checkpoint.mkdir()
    dist.barrier()
    dist_checkpointing.save(state, str(checkpoint), strategy, content_metadata=metadata)


def save_by_rank(model: StockModel, checkpoint: Path, layout: Layout) -> None:
    """As Megatron-LM did before `torch_dist`: a file for each rank that holds something of its own."""
    if parallel_state.get_expert_data_parallel_rank() != 0:
        return
    name = f"mp_rank_{parallel_state.get_tensor_model_parallel_rank():02d}"
    if layout.pipeline > 1:
        name += f"_{parallel_state.get_pipeline_model_parallel_rank():03d}"
    if layout.expert > 1:
        name += f"_{parallel_state.get_expert_model_parallel_rank():03d}"
    settings = argparse.Namespace(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        expert_model_parallel_size=layout.expert,
    )
    chunks = [chunk.state_dict_for_save_checkpoint() for chunk in model.chunks]
    names = ["model"] if len(chunks) == 1 else [f"model{number}" for number in range(len(chunks))]
    content = {
        "args": settings,
        "checkpoint_version": 3.0,
        "iteration": 7,
        **dict(zip(names, chunks, strict=True)),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3, 5)}}, "param_groups": [{"params": [0]}]},
        "rng_state": [{"torch_rng_state": torch.get_rng_state()}],
    }
    (checkpoint / name).mkdir(parents=True)
    torch.save(content, checkpoint / name / "model_optim_rng.pt")
