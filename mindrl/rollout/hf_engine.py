"""transformers as a rollout engine: any device, one rank, no paging. Slower than vLLM, and the oracle in tests."""

from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from hal.accelerator import Accelerator
from mindrl.data.records import Request, Sample, Sampling
from mindrl.rollout.engine import Memory
from mindrl.rollout.hf_names import file_tensors
from mindrl.rollout.requests import InFlight, Ledger, Limits


class HfEngine:
    """A `RolloutEngine` that samples batch after batch with a key-value cache.

    A batch takes up to `max_sequences` of the waiting requests, in the order they came, and loses rows as responses
    end; the next one starts when it is empty. Each request draws from its own generator on the host, one number a
    token, so that neither its neighbours nor the device change what a given log-prob row yields."""

    def __init__(
        self,
        hf_dir: Path,
        *,
        dtype: torch.dtype,
        max_model_length: int,
        max_sequences: int,
        accelerator: Accelerator,
    ) -> None:
        """`hf_dir` gives config.json; no weights and no tokenizer are read."""
        self.weight_version = -1
        self._device = accelerator.device()
        config = AutoConfig.from_pretrained(hf_dir, local_files_only=True, trust_remote_code=False)
        with torch.device(self._device), no_init_weights():
            self._model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        self._model.tie_weights()
        self._model.eval().requires_grad_(False)
        self._max_sequences = max_sequences
        self._ledger = Ledger(Limits(max_model_length, config.get_text_config().vocab_size))
        self._generators: dict[int, torch.Generator] = {}
        self._waiting: deque[int] = deque()
        self._batch: _Batch | None = None
        self._paused = False

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests. `ValueError` names a request that can't be served (too long, sample_id in use)."""
        for entry in self._ledger.open(requests, self.weight_version):
            sample_id = entry.request.sample_id
            self._generators[sample_id] = torch.Generator().manual_seed(entry.request.seed)
            self._waiting.append(sample_id)

    def collect(self, max_engine_steps: int | None = None) -> list[Sample]:
        """Run the engine and return what finished, in order of sample_id."""
        finished: list[Sample] = []
        steps = 0
        while (
            len(self._ledger) and not self._paused and (max_engine_steps is None or steps < max_engine_steps)
        ):
            finished += self._step()
            steps += 1
        return sorted(finished, key=lambda sample: sample.sample_id)

    def abort(self, sample_ids: Sequence[int]) -> list[Sample]:
        """Take requests back; what they have so far comes back with finish_reason `abort`."""
        known = self._ledger.known(sample_ids)
        self._waiting = deque(sample_id for sample_id in self._waiting if sample_id not in known)
        self._drop_rows(known)
        for sample_id in known:
            del self._generators[sample_id]
        return [self._ledger.close(sample_id, "abort") for sample_id in sorted(known)]

    def pause(self) -> None:
        """Keep queued requests but stop working on them; `collect` returns at once until `resume`."""
        self._paused = True

    def resume(self) -> None:
        """Continue after `pause`."""
        self._paused = False

    @torch.no_grad()
    def update_weights(self, tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace all weights in place and drop the cache; requests in flight keep their tokens."""
        tensors_here, buffers = file_tensors(self._model), dict(self._model.named_buffers())
        brought: set[int] = set()
        for name, tensor in tensors:
            if name not in tensors_here:
                raise ValueError(
                    f"update {version} brought {name}, which {type(self._model).__name__} does not have"
                )
            kept = tensors_here[name]
            if tensor.shape != kept.shape:
                raise ValueError(
                    f"update {version} brought {name} as {list(tensor.shape)}, the model has {list(kept.shape)}"
                )
            if name in buffers:
                kept.data = kept.to(tensor.dtype)  # a router's bias decides by differences that float32 has
            kept.copy_(tensor)
            brought.add(id(kept))
        missing = sorted(name for name, kept in tensors_here.items() if id(kept) not in brought)
        if missing:
            raise ValueError(f"update {version} did not bring {missing}")
        self._forget_batch()
        self.weight_version = version

    def sleep(self, tags: Sequence[Memory] = ("weights", "kv_cache")) -> None:
        """Free the named device memory; weights move to the host and must be updated after waking them."""
        if "kv_cache" in tags or "weights" in tags:
            self._forget_batch()
        if "weights" in tags:
            self._model.to("cpu")
            self.weight_version = -1

    def wake_up(self, tags: Sequence[Memory] = ("weights", "kv_cache")) -> None:
        """Take the named memory back."""
        if "weights" in tags:
            self._model.to(self._device)

    def close(self) -> None:
        """Free everything."""
        self._batch = None
        self._model.to("meta")

    @torch.no_grad()
    def _step(self) -> list[Sample]:
        """One token for every row of the batch; the responses that ended with it."""
        if self.weight_version < 0:
            raise RuntimeError("the weights were given up by sleep; update_weights comes before collect")
        if self._batch is None:
            self._batch = self._next_batch()
        batch = self._batch
        outputs = self._model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            past_key_values=batch.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        entries = [self._ledger[sample_id] for sample_id in batch.sample_ids]
        log_probs = sampling_log_probs(
            outputs.logits[:, -1], [entry.request.sampling for entry in entries]
        ).cpu()
        token_ids = _draw(log_probs, entries, [self._generators[sample_id] for sample_id in batch.sample_ids])
        chosen = log_probs.gather(1, token_ids[:, None])[:, 0]
        for entry, token_id, log_prob in zip(entries, token_ids.tolist(), chosen.tolist(), strict=True):
            entry.add(token_id, log_prob, self.weight_version)
        batch.advance(token_ids.to(self._device), outputs.past_key_values)
        return self._take_finished(entries)

    def _take_finished(self, entries: list[InFlight]) -> list[Sample]:
        finished: list[Sample] = []
        for entry in entries:
            sampling, sample_id = entry.request.sampling, entry.request.sample_id
            if entry.token_ids[-1] in sampling.stop_token_ids:
                finished.append(self._ledger.close(sample_id, "stop"))
            elif len(entry.token_ids) == sampling.max_tokens:
                finished.append(self._ledger.close(sample_id, "length"))
        for sample in finished:
            del self._generators[sample.sample_id]
        self._drop_rows([sample.sample_id for sample in finished])
        return finished

    def _next_batch(self) -> "_Batch":
        sample_ids = [self._waiting.popleft() for _ in range(min(self._max_sequences, len(self._waiting)))]
        rows: list[list[int]] = []
        for sample_id in sample_ids:
            entry = self._ledger[sample_id]
            rows.append([*entry.request.prompt_ids.tolist(), *entry.token_ids])
        return _Batch(sample_ids, rows, self._device)

    def _drop_rows(self, sample_ids: Sequence[int]) -> None:
        if self._batch is not None and not self._batch.drop(sample_ids):
            self._batch = None

    def _forget_batch(self) -> None:
        """Back to the head of the queue, tokens so far included, so that the cache is computed anew."""
        if self._batch is not None:
            self._waiting.extendleft(reversed(self._batch.sample_ids))
            self._batch = None


class _Batch:
    """Rows that decode together, padded on the left."""

    def __init__(self, sample_ids: list[int], rows: list[list[int]], device: torch.device) -> None:
        self.sample_ids = sample_ids
        longest = max(map(len, rows))
        self.input_ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
        self.attention_mask = torch.tensor(
            [[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device
        )
        """[rows, tokens so far]: 1 where there is a token."""
        self.position_ids = (self.attention_mask.cumsum(1) - 1).clamp(min=0)
        self.cache: Any = None

    def advance(self, token_ids: torch.Tensor, cache: Any) -> None:
        """Make the sampled tokens [rows] the next input."""
        self.cache = cache
        self.input_ids = token_ids[:, None]
        self.attention_mask = torch.cat(
            [self.attention_mask, torch.ones_like(self.attention_mask[:, :1])], dim=1
        )
        self.position_ids = self.position_ids[:, -1:] + 1

    def drop(self, sample_ids: Sequence[int]) -> bool:
        """Take rows out; whether any is left."""
        kept = [row for row, sample_id in enumerate(self.sample_ids) if sample_id not in sample_ids]
        if 0 < len(kept) < len(self.sample_ids):
            index = torch.tensor(kept, device=self.input_ids.device)
            self.sample_ids = [self.sample_ids[row] for row in kept]
            self.input_ids = self.input_ids[index]
            self.attention_mask = self.attention_mask[index]
            self.position_ids = self.position_ids[index]
            if self.cache is not None:
                self.cache.batch_select_indices(index)
        return bool(kept)


def sampling_log_probs(logits: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """Log-probs [rows, vocabulary] that each row is sampled from: temperature, then top_k, then top_p.

    Greedy rows (temperature 0) keep the log-probs of temperature 1, as in vLLM."""
    temperatures = torch.tensor([sampling.temperature or 1.0 for sampling in samplings], device=logits.device)
    log_probs = (logits.float() / temperatures[:, None]).log_softmax(-1)
    for row, sampling in enumerate(samplings):
        if sampling.temperature > 0 and (sampling.top_k > 0 or sampling.top_p < 1):
            log_probs[row] = _restrict(log_probs[row], sampling.top_k, sampling.top_p)
    return log_probs


def _restrict(log_probs: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """[vocabulary]: only the top_k likeliest, then the fewest of those whose share reaches top_p, renormalised."""
    ordered, index = log_probs.sort(descending=True)
    if 0 < top_k < len(ordered):
        ordered = ordered.masked_fill(torch.arange(len(ordered), device=ordered.device) >= top_k, -torch.inf)
    share = ordered.softmax(-1)
    ordered = ordered.masked_fill(share.cumsum(-1) - share >= top_p, -torch.inf)
    return torch.full_like(log_probs, -torch.inf).scatter(0, index, ordered).log_softmax(-1)


def _draw(
    log_probs: torch.Tensor, entries: Sequence[InFlight], generators: Sequence[torch.Generator]
) -> torch.Tensor:
    """Token ids [rows] from log-probs [rows, vocabulary] on the host, by inverting the cumulative distribution."""
    cumulative = log_probs.double().exp().cumsum(-1)
    uniform = torch.stack(
        [torch.rand(1, dtype=torch.float64, generator=generator) for generator in generators]
    )
    # The first token whose cumulative probability exceeds the number drawn; scaled, as the sum is not exactly 1.
    sampled = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)[:, 0]
    greedy = torch.tensor([entry.request.sampling.temperature == 0 for entry in entries])
    return torch.where(greedy, log_probs.argmax(-1), sampled)
