"""vLLM inside the training process, on whichever device this vLLM was built for.

Every rank of the default process group builds one of these; `tensor_parallel_size` consecutive ranks share an engine
(vLLM's `external_launcher`: each rank runs its own scheduler and all take the same decisions). Weights never come
from disk: the engine starts with dummy ones and refuses requests until the first `update_weights`.

vLLM reads its environment when it is imported, so the process must have been started with
`mindrl.rollout.choose.engine_environment`.
"""

import gc
import json
import logging
import random
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from vllm import EngineArgs, ModelRegistry, SamplingParams
from vllm.config import SchedulerConfig, VllmConfig
from vllm.distributed.parallel_state import GroupCoordinator, get_tp_group
from vllm.inputs.engine import tokens_input
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher
from vllm.v1.worker.worker_base import WorkerBase

from hal.accelerator import Accelerator
from mindrl.config.names import check_pass_through
from mindrl.data.records import FinishReason, Request, Sample, Sampling
from mindrl.errors import RequestError
from mindrl.rollout.engine import Memory
from mindrl.rollout.requests import Ledger, Limits

SHARED_MEMORY = Path("/dev/shm")

# What the engine depends on, or what has its own key in the configuration.
FIXED_ARGS = {
    "model": "it is model.path",
    "skip_tokenizer_init": "rollout is token-in, token-out",
    "load_format": "weights come from the trainer",
    "dtype": "it is actor.dtype",
    "seed": "it is trainer.seed",
    "max_model_len": "it is data.max_prompt_length + data.max_response_length",
    "tensor_parallel_size": "it is rollout.tensor_parallel_size",
    "pipeline_parallel_size": "an engine spans rollout.tensor_parallel_size ranks",
    "data_parallel_size": "there are as many engines as fit the world",
    "distributed_executor_backend": "the engine lives in the trainer's processes",
    "logprobs_mode": "the trainer compares processed log-probs",
    "generation_config": "sampling is what the configuration says",
    "disable_log_stats": "nothing reads them",
    "max_num_seqs": "it follows from the batch",
    "gpu_memory_utilization": "it is rollout.gpu_memory_utilization",
}


class VllmEngine:
    """A `RolloutEngine` over vLLM; one instance a rank."""

    def __init__(
        self,
        hf_dir: Path,
        *,
        dtype: torch.dtype,
        tensor_parallel_size: int,
        max_model_length: int,
        max_sequences: int,
        seed: int,
        gpu_memory_utilization: float,
        job_id: str,
        accelerator: Accelerator,
        kv_cache_bytes: int | None = None,
        engine_args: Mapping[str, Any] | None = None,
    ) -> None:
        """Collective over the default process group, which the engine uses and `close` destroys.

        `hf_dir` gives config.json; no weights and no tokenizer are read. `max_sequences` run at once, the others
        wait. `job_id` is one string for all ranks of a run and differs between runs: vLLM names shared memory after
        it. `kv_cache_bytes` is per rank; None takes what `gpu_memory_utilization` leaves on a device, and on CPU just
        enough for `max_sequences` of `max_model_length`."""
        world_size = dist.get_world_size()
        if world_size % tensor_parallel_size:
            raise ValueError(
                f"rollout tensor_parallel_size={tensor_parallel_size} does not divide the {world_size} ranks"
            )
        if current_platform.device_type != accelerator.device_type:
            raise RequestError(
                f"this run uses {accelerator.name}, but the installed vLLM is built for "
                f"{current_platform.device_type or 'no device it can find here'}; install the one for {accelerator.name} "
                "or use rollout.engine=hf"
            )
        check_engine_args(engine_args or {})
        self._accelerator = accelerator
        self.weight_version = -1
        self._engine_steps = 0
        self._paused = False
        self._weight_names: list[str] = []
        arguments: dict[str, Any] = {
            "model": str(hf_dir),
            "skip_tokenizer_init": True,
            "load_format": "dummy",
            "dtype": dtype,
            "seed": seed,
            "max_model_len": max_model_length,
            "max_num_seqs": max_sequences,
            "tensor_parallel_size": tensor_parallel_size,
            "distributed_executor_backend": "external_launcher",
            "gpu_memory_utilization": gpu_memory_utilization,
            "kv_cache_memory_bytes": kv_cache_bytes,
            "logprobs_mode": "processed_logprobs",
            "generation_config": "vllm",
            "disable_log_stats": True,
            "enforce_eager": current_platform.is_cpu(),
            **_whole_prompts(max_model_length),
            "enable_sleep_mode": not current_platform.is_cpu(),
        }
        # Start-up collects garbage five times over all of torch; it need not look at what is there already.
        gc.freeze()
        with _untouched_random_state(accelerator), _own_set_num_threads():
            _import_model_class(hf_dir)
            config = EngineArgs(**(arguments | dict(engine_args or {}))).create_engine_config()
            if current_platform.is_cpu():
                _check_head_size(config)
                if config.cache_config.kv_cache_memory_bytes is None:
                    config.cache_config.kv_cache_memory_bytes = _kv_cache_bytes(config)
            self._engine = LLMEngine(
                config,
                executor_class=_executor_of(job_id, accelerator.current_device()),
                log_stats=False,
                multiprocess_mode=False,
            )
        _unlink_shared_memory(job_id, get_tp_group())
        # Each update warns of layers that have no weights of their own: rotary embeddings, a tied output layer.
        logging.getLogger("vllm.model_executor.model_loader.reload").setLevel(logging.ERROR)
        self._tp_group = get_tp_group()
        self._ledger = Ledger(Limits(max_model_length, config.model_config.get_vocab_size()))

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests. `ValueError` names a request that can't be served (too long, sample_id in use)."""
        self._agree(
            "the submitted requests", {r.sample_id: (r.seed, *r.prompt_ids.tolist()) for r in requests}
        )
        for entry in self._ledger.open(requests, self.weight_version):
            request = entry.request
            self._engine.add_request(
                str(request.sample_id),
                tokens_input(request.prompt_ids.tolist()),
                _sampling_params(request.sampling, request.seed),
            )

    def collect(self, max_engine_steps: int | None = None) -> list[Sample]:
        """Run the engine and return what finished, in order of sample_id."""
        finished: list[Sample] = []
        steps = 0
        with _untouched_random_state(self._accelerator):
            while (
                len(self._ledger)
                and not self._paused
                and (max_engine_steps is None or steps < max_engine_steps)
            ):
                finished += self._step()
                steps += 1
        return sorted(finished, key=lambda sample: sample.sample_id)

    def abort(self, sample_ids: Sequence[int]) -> list[Sample]:
        """Take requests back; what they have so far comes back with finish_reason `abort`."""
        known = self._ledger.known(sample_ids)
        self._engine.abort_request([str(sample_id) for sample_id in known])
        return [self._ledger.close(sample_id, "abort") for sample_id in sorted(known)]

    def pause(self) -> None:
        """Keep queued requests but stop working on them; `collect` returns at once until `resume`."""
        self._paused = True

    def resume(self) -> None:
        """Continue after `pause`."""
        self._paused = False

    def update_weights(self, tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace all weights in place and drop every cache computed from the old ones.

        Requests in flight keep their tokens; their keys and values are computed anew."""
        names: list[str] = []

        def copies() -> Iterator[tuple[str, torch.Tensor]]:
            # vLLM holds on to tensors until the layer they belong to is complete.
            for name, tensor in tensors:
                names.append(name)
                yield name, tensor.detach().clone()

        self._engine.collective_rpc(_load_weights, args=(copies(),))
        if self._weight_names and names != self._weight_names:
            raise ValueError(
                f"update {version} brought {len(names)} tensors, the first one {len(self._weight_names)}; "
                f"they differ in {sorted(set(names) ^ set(self._weight_names))}"
            )
        self._weight_names = names
        self._engine.reset_prefix_cache(reset_running_requests=True)
        self._engine.reset_mm_cache()
        self._engine.reset_encoder_cache()
        self.weight_version = version

    def sleep(self, tags: Sequence[Memory] = ("weights", "kv_cache")) -> None:
        """Free the device memory; weights must be updated after waking them.

        vLLM puts both to sleep or none (`ValueError`). On CPU it keeps the memory."""
        if set(tags) != {"weights", "kv_cache"}:
            raise ValueError(
                f"vLLM can't put {list(tags)} to sleep and keep the rest; name weights and kv_cache"
            )
        self._engine.reset_prefix_cache(reset_running_requests=True)
        self.weight_version = -1
        if not current_platform.is_cpu():
            self._engine.sleep(level=2, mode="keep")

    def wake_up(self, tags: Sequence[Memory] = ("weights", "kv_cache")) -> None:
        """Take the named memory back; on CPU it was never given."""
        if not current_platform.is_cpu():
            self._engine.wake_up(list(tags))

    def close(self) -> None:
        """Free everything. Destroys the default process group, so it comes last."""
        self._engine.engine_core.shutdown()

    def _step(self) -> list[Sample]:
        """One engine step; what finished in it."""
        if self.weight_version < 0:
            raise RuntimeError("the weights were given up by sleep; update_weights comes before collect")
        if not self._engine.has_unfinished_requests():
            raise RuntimeError(
                f"{len(self._ledger)} requests are in flight, but vLLM does not know them any more"
            )
        finished: list[Sample] = []
        sampled: dict[int, tuple[int, ...]] = {}
        for output in self._engine.step():
            sample_id, completion = int(output.request_id), output.outputs[0]
            sampled[sample_id] = tuple(completion.token_ids)
            entry = self._ledger[sample_id]
            for token_id, candidates in zip(completion.token_ids, completion.logprobs, strict=True):
                entry.add(token_id, candidates[token_id].logprob, self.weight_version)
            if completion.finish_reason is not None:
                finished.append(
                    self._ledger.close(sample_id, _finish_reason(completion.finish_reason, sample_id))
                )
        self._engine_steps += 1
        self._agree(f"the tokens sampled in engine step {self._engine_steps}", sampled)
        return finished

    def _agree(self, what: str, mine: Mapping[int, tuple[int, ...]]) -> None:
        """Raise on every rank of the engine if `mine` (by sample_id) is not the same on all.

        Tensor-parallel ranks that part ways wait for each other for ever in a later step, so this comes first."""
        if self._tp_group.world_size == 1:
            return
        checksum = torch.tensor([zlib.crc32(repr(sorted(mine.items())).encode())])
        checksums = [torch.empty_like(checksum) for _ in range(self._tp_group.world_size)]
        dist.all_gather(checksums, checksum, group=self._tp_group.cpu_group)
        if all(torch.equal(one, checksum) for one in checksums):
            return
        everyone: list[Any] = [None] * self._tp_group.world_size
        dist.all_gather_object(everyone, dict(mine), group=self._tp_group.cpu_group)
        different = sorted(
            sample_id
            for sample_id in set().union(*everyone)
            if len({repr(of_rank.get(sample_id)) for of_rank in everyone}) > 1
        )
        shown = {
            rank: of_rank.get(different[0])
            for rank, of_rank in zip(self._tp_group.ranks, everyone, strict=True)
        }
        raise RuntimeError(
            f"the ranks {self._tp_group.ranks} of one rollout engine disagree on {what}: "
            f"samples {different[:8]}; sample {different[0]} by rank: {shown}"
        )


def check_engine_args(engine_args: Mapping[str, Any]) -> None:
    """`RequestError` for a name that vLLM does not know or that the engine sets itself, and for a wrong type."""
    names = vars(sys.modules[EngineArgs.__module__])
    known = {field.name: _type_of(field.type, names) for field in fields(EngineArgs)}
    check_pass_through("rollout.engine_args", engine_args, known, FIXED_ARGS, "vLLM's EngineArgs")


def _type_of(annotation: Any, names: Mapping[str, Any]) -> Any:
    """An annotation that may be text; `Any` where it uses names that vLLM imports for type checkers only."""
    try:
        return eval(annotation, dict(names)) if isinstance(annotation, str) else annotation
    except NameError:
        return Any


def _sampling_params(sampling: Sampling, seed: int) -> SamplingParams:
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_tokens,
        seed=seed,
        stop_token_ids=list(sampling.stop_token_ids),
        ignore_eos=True,  # stop_token_ids says all there is to say
        logprobs=0,  # of the sampled token only
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _finish_reason(reason: str, sample_id: int) -> FinishReason:
    if reason == "stop" or reason == "length":
        return reason
    raise RuntimeError(
        f"vLLM ended sample {sample_id} with finish_reason={reason!r}; expected stop or length"
    )


def _load_weights(worker: WorkerBase, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
    worker.model_runner.reload_weights(weights_iterator=tensors)
    if current_platform.is_cpu():
        # A tied output layer keeps multiplying by the packed copy of the old embedding until it is packed again.
        for module in worker.get_model().modules():
            if isinstance(module, ParallelLMHead):
                dispatch_cpu_unquantized_gemm(module, remove_weight=False)


def _import_model_class(hf_dir: Path) -> None:
    """vLLM would start a process only to look at the model's class: seconds on a machine that never did it.

    It does so to leave the device alone until it forks; here nothing is forked and the class is needed anyway."""
    for architecture in json.loads((hf_dir / "config.json").read_text()).get("architectures") or ():
        if architecture in ModelRegistry.models:
            ModelRegistry.register_model(architecture, ModelRegistry.models[architecture].load_model_cls())


def _check_head_size(config: VllmConfig) -> None:
    """vLLM finds out in the middle of the first forward pass."""
    head_size, supported = config.model_config.get_head_size(), CPUAttentionBackend.get_supported_head_sizes()
    if not config.model_config.use_mla and head_size not in supported:
        raise RequestError(
            f"the model's attention heads have size {head_size}, and vLLM on CPU computes sizes {supported}; "
            "use rollout.engine=hf"
        )


def _whole_prompts(max_model_length: int) -> dict[str, Any]:
    """Engine arguments that keep prompts in one piece on CPU.

    vLLM turns a request's generator back after each piece but the last, which generators on CPU do not support: it
    dies as soon as the prompts of a step are more tokens than it computes at once."""
    if not current_platform.is_cpu():
        return {}
    budget = max(max_model_length, SchedulerConfig.DEFAULT_MAX_NUM_BATCHED_TOKENS)
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": budget}


def _kv_cache_bytes(config: VllmConfig) -> int:
    """Bytes a rank needs so that every sequence can reach its full length, with one block each to spare."""
    model, parallel = config.model_config, config.parallel_config
    block = config.cache_config.block_size
    blocks = config.scheduler_config.max_num_seqs * (-(-model.max_model_len // block) + 1)
    per_token = 2 * model.get_num_kv_heads(parallel) * model.get_head_size() * model.dtype.itemsize
    return (blocks + 1) * block * per_token * model.get_num_layers(parallel)


def _executor_of(job_id: str, local_rank: int) -> type[ExecutorWithExternalLauncher]:
    class Executor(ExecutorWithExternalLauncher):
        """Joins the default process group and names shared memory after the job.

        vLLM derives that name from the part of the rendezvous address behind the last colon; with its usual
        `env://` two jobs on one host, or a job after one that was killed, would collide."""

        def _distributed_args(self) -> tuple[str, int, int]:
            return f"tcp://mindrl:{job_id}", dist.get_rank(), local_rank

    return Executor


def _unlink_shared_memory(job_id: str, group: GroupCoordinator) -> None:
    """Remove the names of the segments that all ranks have mapped by now: they vanish with the processes."""
    dist.barrier()
    for segment in SHARED_MEMORY.glob(f"{job_id}-*"):
        segment.unlink(missing_ok=True)
    buffer = group.mq_broadcaster.buffer if group.mq_broadcaster is not None else None
    if buffer is not None and buffer.is_creator:
        buffer.shared_memory.unlink()
        buffer.is_creator = False  # its destructor would unlink it once more


@contextmanager
def _untouched_random_state(accelerator: Accelerator) -> Iterator[None]:
    """vLLM seeds and draws from the process's generators, which belong to the trainer."""
    of_device, of_torch = accelerator.get_rng_state(), torch.get_rng_state()
    of_numpy, of_python = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(of_torch)
        accelerator.set_rng_state(of_device)
        np.random.set_state(of_numpy)
        random.setstate(of_python)


@contextmanager
def _own_set_num_threads() -> Iterator[None]:
    """vLLM on CPU replaces torch.set_num_threads by a warning; the trainer keeps the real one."""
    kept = torch.set_num_threads
    try:
        yield
    finally:
        torch.set_num_threads = kept
