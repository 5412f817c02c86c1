"""vLLM inside the training process, on whichever device this vLLM was built for.

Every rank of the default process group builds one of these; `tensor_parallel_size` consecutive ranks share an engine
(vLLM's `external_launcher`: each rank runs its own scheduler and all take the same decisions). Weights never come
from disk: the engine starts with dummy ones and refuses requests until the first `update_weights`.

vLLM reads its environment when it is imported, so the process must have been started with
`mindrl.rollout.choose.engine_environment`.
"""

import gc
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from vllm import SamplingParams
from vllm.config import set_current_vllm_config
from vllm.distributed.parallel_state import get_tp_group
from vllm.inputs.engine import tokens_input
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.worker.worker_base import WorkerBase

from hal.accelerator import Accelerator
from mindrl.data.records import FinishReason, Request, Sample, Sampling
from mindrl.errors import RequestError
from mindrl.rollout.agreement import require_agreement
from mindrl.rollout.engine import Memory
from mindrl.rollout.requests import Ledger, Limits
from mindrl.rollout.vllm_arguments import engine_config
from mindrl.rollout.vllm_guest import (
    executor_of,
    import_model_class,
    own_set_num_threads,
    unlink_shared_memory,
    untouched_random_state,
)

if current_platform.is_cpu():
    from mindrl.rollout.vllm_on_host import forget_packed_experts, repack_output_layer


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
        self._accelerator = accelerator
        self.weight_version = -1
        self._engine_steps = 0
        self._paused = False
        self._weight_names: list[str] = []
        # Start-up collects garbage five times over all of torch; it need not look at what is there already.
        gc.freeze()
        with untouched_random_state(accelerator), own_set_num_threads():
            import_model_class(hf_dir)
            config = engine_config(
                hf_dir,
                dtype=dtype,
                seed=seed,
                max_model_length=max_model_length,
                max_sequences=max_sequences,
                tensor_parallel_size=tensor_parallel_size,
                gpu_memory_utilization=gpu_memory_utilization,
                kv_cache_bytes=kv_cache_bytes,
                device_args=accelerator.rollout_arguments(),
                engine_args=engine_args or {},
            )
            self._engine = LLMEngine(
                config,
                executor_class=executor_of(job_id, accelerator.current_device()),
                log_stats=False,
                multiprocess_mode=False,
            )
        unlink_shared_memory(job_id, get_tp_group())
        # Each update warns of layers that have no weights of their own: rotary embeddings, a tied output layer.
        logging.getLogger("vllm.model_executor.model_loader.reload").setLevel(logging.ERROR)
        self._ranks = get_tp_group().cpu_group  # of this engine
        self._ledger = Ledger(Limits(max_model_length, config.model_config.get_vocab_size()))

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests. `ValueError` names a request that can't be served (too long, sample_id in use)."""
        require_agreement(
            self._ranks,
            "the submitted requests",
            {r.sample_id: (r.seed, *r.prompt_ids.tolist()) for r in requests},
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
        with untouched_random_state(self._accelerator):
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
        require_agreement(self._ranks, f"the tokens sampled in engine step {self._engine_steps}", sampled)
        return finished


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
    if current_platform.is_cpu():
        forget_packed_experts(worker.get_model())
    # Of the runner, which every vLLM since 0.23 has: on some devices the worker has no such method.
    with set_current_vllm_config(worker.vllm_config):
        worker.model_runner.reload_weights(weights_iterator=tensors)
    if current_platform.is_cpu():
        repack_output_layer(worker.get_model())
