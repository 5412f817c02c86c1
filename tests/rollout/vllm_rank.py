"""One rank of tests/rollout/test_vllm_processes.py: python vllm_rank.py '{"tensor_parallel_size": 2, ...}'."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from rollout_models import greedy, largest_gap, make_model, named_tensors, perturb, requests

from hal.devices.cpu import CpuAccelerator
from mindrl.data.records import Sample
from mindrl.rollout.engine import generate

MAX_MODEL_LENGTH = 64


def main() -> None:
    task = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    rank, directory = int(os.environ["RANK"]), Path(task["directory"])
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(directory / "store"), 2), rank=rank, world_size=2
    )
    from mindrl.rollout.vllm_engine import VllmEngine

    model = make_model(directory / f"model{rank}", task["family"], tied=task["tied"])
    torch.manual_seed(rank)  # a trainer's generators differ by rank
    engine = VllmEngine(
        directory / f"model{rank}",
        dtype=torch.float32,
        tensor_parallel_size=task["tensor_parallel_size"],
        max_model_length=MAX_MODEL_LENGTH,
        max_sequences=8,
        seed=0,
        gpu_memory_utilization=0.4,
        job_id=task["job_id"],
        accelerator=CpuAccelerator(),
        engine_args={"block_size": 32},
    )
    assert not _segments(task["job_id"]), "the names of shared memory are gone once every rank has mapped it"
    if task["what"] == "killed":
        engine.update_weights(named_tensors(model), 0)
        generate(engine, requests(4))
        dist.barrier()
        os.kill(os.getpid(), signal.SIGKILL)
    if task["what"] == "disagree":
        _disagree(engine, model, rank)
    else:
        _follow_updates(engine, model, task["tensor_parallel_size"], rank)
    total = torch.ones(1)
    dist.all_reduce(total)
    assert total.item() == 2, "the trainer's process group still works"
    engine.close()
    assert not dist.is_initialized()
    assert not _segments(task["job_id"])
    print(f"rank {rank} passed")


def _follow_updates(engine, model, tensor_parallel_size: int, rank: int) -> None:
    """What the engine samples follows two updates; ranks of one engine get the same, two engines their own."""
    engine_index = rank // tensor_parallel_size
    for version in range(3):
        if version:
            perturb(model, seed=version)
        engine.update_weights(named_tensors(model), version)
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        for temperature in (1.0, 0.7):
            samples = generate(engine, requests(12, temperature=temperature, seed=engine_index))
            assert largest_gap(model, samples, temperature) < 1e-4
        assert torch.equal(torch.get_rng_state(), before[0])
        np.testing.assert_array_equal(np.random.get_state()[1], before[1])
        asked = requests(6, temperature=0.0, samples_per_prompt=1)
        assert _tokens(generate(engine, asked)) == [greedy(model, request) for request in asked]
        everyone: list[list[list[int]]] = [[], []]
        dist.all_gather_object(everyone, _tokens(samples))
        assert (everyone[0] == everyone[1]) == (tensor_parallel_size == 2)


def _disagree(engine, model, rank: int) -> None:
    """Ranks of one engine that part ways are an error on each of them that says which, and not a hang."""
    engine.update_weights(named_tensors(model), 0)
    with pytest.raises(RuntimeError, match=r"disagree on the submitted requests: samples \[0, 1, 2, 3\]"):
        engine.submit(requests(4, seed=rank))
    engine.submit(requests(4, max_tokens=8, stop=()))
    engine.collect(max_engine_steps=2)
    if rank == 1:
        draw_other_tokens(engine)
    with pytest.raises(
        RuntimeError, match=r"ranks \[0, 1\] of one rollout engine disagree on the tokens sampled"
    ):
        engine.collect()


def draw_other_tokens(engine) -> None:
    """From the same log-probs, on this rank only."""
    batch = engine._engine.model_executor.driver_worker.worker.model_runner.input_batch
    for generator in batch.generators.values():
        generator.manual_seed(999)


def _segments(job_id: str) -> list[str]:
    return [path.name for path in Path("/dev/shm").iterdir() if job_id in path.name]


def _tokens(samples: list[Sample]) -> list[list[int]]:
    return [sample.response_ids.tolist() for sample in samples]


if __name__ == "__main__":
    main()
