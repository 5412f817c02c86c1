"""Megatron-core as a training backend: data, tensor + sequence, pipeline and expert parallel, on any device of the HAL."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region

from hal import Accelerator, Selection
from mindrl.algorithms.objective import PolicyObjective
from mindrl.config.schema import Config
from mindrl.data.records import FloatArray, Sample
from mindrl.data.requests import request_seed
from mindrl.models.backend import GradientStats, MiniBatch, Part
from mindrl.models.batching import MicroBatch, micro_batches, per_sample_arrays, token_terms
from mindrl.models.megatron import offload, optimizer_state, random_state
from mindrl.models.megatron.layers import use_rotary_kernel
from mindrl.models.megatron.model import build_model
from mindrl.models.megatron.optimizer import build_optimizer, data_parallel, step
from mindrl.models.megatron.parallel import initialize_parallel
from mindrl.models.megatron.transformer_config import build_transformer_config
from mindrl.models.megatron.weights import ModelWeights
from mindrl.models.reduction import add_up
from mindrl.weight_maps import Architecture, weight_map

Outcome = tuple[torch.Tensor, dict[str, torch.Tensor]]
"""Log-probs [num_tokens] and metric sums of one micro-batch, on the last stage."""


class MegatronBackend:
    """One rank's shard of a policy. `trainable=False` makes a reference policy: weights and nothing else.

    The default process group must exist; weights are undefined until `load_hf` or `load_state`."""

    def __init__(
        self,
        config: Config,
        architecture: Architecture,
        accelerator: Accelerator,
        selection: Selection,
        objective: PolicyObjective | None = None,
        *,
        trainable: bool = True,
    ) -> None:
        if trainable and objective is None:
            raise ValueError("a trainable backend needs an objective")
        initialize_parallel(config, accelerator)
        if architecture.latent_attention is None:  # which calls the kernel itself
            use_rotary_kernel(selection)
        self._config = config
        self._architecture = architecture
        self._accelerator = accelerator
        self._selection = selection
        self._objective = objective
        self._micro_batch_size = config.actor.micro_batch_size
        if not trainable:
            self._micro_batch_size = config.reference.micro_batch_size or self._micro_batch_size
        self._transformer = build_transformer_config(config.actor, architecture, fused_rope=True)
        self._model = build_model(self._transformer, architecture, selection, accelerator)
        self._weights = ModelWeights(self._model, weight_map(architecture))
        self._weights.mark_partitions()
        self._ddp = self._optimizer = None
        if trainable:
            self._ddp = data_parallel(self._transformer, self._model)
            self._optimizer = build_optimizer(
                self._ddp, self._transformer, config.actor.optimizer, selection.adamw
            )
        self._model.requires_grad_(trainable)
        self._host = offload.HostCopies(accelerator)
        self._tensor_group = parallel_state.get_tensor_model_parallel_group()
        self._pipeline_group = parallel_state.get_pipeline_model_parallel_group()

    # Weights.

    def load_hf(self, directory: Path) -> None:
        """Take the weights of a Hugging Face directory (safetensors)."""
        self._weights.load_hf(directory)
        self._weights_changed()

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """See `TrainBackend`."""
        return self._weights.named_tensors()

    def state(self, parts: Collection[Part] = ("model",), *, for_loading: bool = False) -> dict[str, Any]:
        """See `TrainBackend`: this rank's shards, as Megatron's `dist_checkpointing` saves and loads them."""
        state: dict[str, Any] = {"model": self._model.sharded_state_dict()}
        if "optimizer" in parts:
            if for_loading:
                optimizer_state.make_moments(self._optimizer)
            state["optimizer"] = optimizer_state.sharded_state(self._optimizer, state["model"])
        if "random" in parts:
            state["random"] = random_state.sharded_state(self._accelerator)
        return {part: state[part] for part in parts}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See `TrainBackend`; `state` is what `dist_checkpointing.load` made of `state(..., for_loading=True)`."""
        if "model" in state:
            self._model.load_state_dict(state["model"])
        if "optimizer" in state:
            optimizer_state.load_state(self._optimizer, state["optimizer"])
        elif "model" in state:
            self._weights_changed()
        if "random" in state:
            random_state.load_state(state["random"], self._accelerator)

    def holds_generators(self, keys: Collection[str]) -> bool:
        """Whether a checkpoint with these keys has the random generators of this layout."""
        return random_state.sharded_state(self._accelerator).unique_key in keys

    def seed_generators(self, *seed_path: int) -> None:
        """Start the process's random generators afresh, from a hash of `seed_path`."""
        random_state.seed_generators(request_seed(seed_path[:-1], seed_path[-1]), self._accelerator)

    def _weights_changed(self) -> None:
        if self._optimizer is not None:
            self._optimizer.reload_model_params()

    # Passes.

    def log_probs(self, samples: Sequence[Sample]) -> list[FloatArray]:
        """See `TrainBackend`."""
        batches = self._micro_batches(samples)
        if not batches:
            return []
        self._model.eval()
        with torch.no_grad():
            outcomes = self._run(batches, self._evaluate, forward_only=True)
        return per_sample_arrays(batches, self._from_last_stage(batches, outcomes), len(samples))

    def accumulate_gradients(self, mini_batch: MiniBatch) -> GradientStats:
        """See `TrainBackend`."""
        self._ddp.zero_grad_buffer()
        self._optimizer.zero_grad()
        self._model.train()
        is_silent = (mini_batch.advantages == 0) & self._objective.needs_advantage
        if self._transformer.expert_model_parallel_size > 1:
            # Ranks that share experts take part in each other's passes: they all need as many of the same kind, and
            # have equal numbers of samples, of which any may be silent.
            is_silent[:] = False
        silent = self._micro_batches(mini_batch.samples, np.flatnonzero(is_silent).tolist())
        teaching = self._micro_batches(mini_batch.samples, np.flatnonzero(~is_silent).tolist())
        loss = partial(self._loss, mini_batch)
        outcomes: list[Outcome] = []
        if silent:  # their metrics and log-probs count, their gradient is zero: a third of the work
            with torch.no_grad():
                outcomes += self._run(silent, loss, forward_only=True)
        if teaching:
            outcomes += self._run(teaching, loss, forward_only=False)
        else:
            finalize_model_grads([self._ddp])
        batches = silent + teaching
        log_probs = self._from_last_stage(batches, outcomes)
        return GradientStats(
            sums=add_up([sums for _, sums in outcomes], counts=dist.get_rank(self._tensor_group) == 0),
            log_probs=per_sample_arrays(batches, log_probs, len(mini_batch.samples)),
        )

    def apply_gradients(self, lr: float) -> float:
        """See `TrainBackend`."""
        return step(self._optimizer, lr, self._config.actor.optimizer.clip_grad)

    def _micro_batches(
        self, samples: Sequence[Sample], chosen: Sequence[int] | None = None
    ) -> list[MicroBatch]:
        return micro_batches(
            samples,
            self._micro_batch_size,
            device=self._accelerator.device(),
            chosen=chosen,
            length_multiple=self._transformer.tensor_model_parallel_size,
            same_shape=self._transformer.pipeline_model_parallel_size > 1,
        )

    def _run(
        self, batches: list[MicroBatch], evaluate: Callable[..., Any], *, forward_only: bool
    ) -> list[Outcome]:
        """Megatron's schedule over all micro-batches; outcomes exist on the last stage only."""

        def forward_step(remaining: Iterator[MicroBatch], model: torch.nn.Module) -> tuple[torch.Tensor, Any]:
            batch = next(remaining)
            return model(batch.tokens, None, None), partial(evaluate, batch)

        num_rows, length = batches[0].tokens.shape
        return get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iter(batches),
            model=self._model if forward_only or self._ddp is None else self._ddp,
            num_microbatches=len(batches),
            seq_length=length,
            micro_batch_size=num_rows,
            forward_only=forward_only,
        )

    # What the last stage does with hidden states; Megatron wants (loss, number of tokens, anything).

    def _evaluate(
        self, batch: MicroBatch, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, Outcome]:
        log_probs, _ = self._selection.token_log_probs(*self._predicting(batch, hidden), **self._vocabulary())
        return hidden.new_zeros(()), _one(hidden), (log_probs, {})

    def _loss(
        self, mini_batch: MiniBatch, batch: MicroBatch, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, Outcome]:
        terms = token_terms(mini_batch, batch)

        def objective(
            log_probs: torch.Tensor, entropy: torch.Tensor, tokens: slice
        ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            part = terms.part(tokens)
            return self._objective(
                log_probs,
                entropy,
                old_log_probs=part.old_log_probs,
                ref_log_probs=part.ref_log_probs,
                advantages=part.advantages,
                token_weights=part.token_weights,
                mask=part.mask,
            )

        loss, log_probs, entropy = self._selection.token_loss(
            *self._predicting(batch, hidden), lambda *piece: objective(*piece)[0], **self._vocabulary()
        )
        _, sums = objective(log_probs, entropy, slice(None))
        return loss, _one(hidden), (log_probs, sums)

    def _predicting(
        self, batch: MicroBatch, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Hidden states [num_tokens, hidden] that predict the response tokens, out of [length, rows, hidden]; the
        output weight; the tokens."""
        if self._transformer.sequence_parallel:
            # The kernel's gradient is complete on every rank already: each keeps its part of the sequence.
            hidden = gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=False)
        predicting = hidden.flatten(0, 1).index_select(0, batch.steps * hidden.shape[1] + batch.rows)
        return predicting, self._model.output_weight(), batch.targets

    def _vocabulary(self) -> dict[str, Any]:
        """What else the kernels of log-probs want to know."""
        return {
            "temperature": self._config.rollout.temperature,
            "vocab_size": self._architecture.vocab_size,
            "group": self._tensor_group if self._transformer.tensor_model_parallel_size > 1 else None,
        }

    # Results, on all ranks.

    def _from_last_stage(self, batches: list[MicroBatch], outcomes: list[Outcome]) -> list[torch.Tensor]:
        """Log-probs of each micro-batch [num_tokens], on the host, on every stage."""
        sizes = [sum(batch.response_lengths) for batch in batches]
        if outcomes:
            flat = torch.cat([log_probs.float().cpu() for log_probs, _ in outcomes])
        else:
            flat = torch.empty(sum(sizes))
        self._broadcast_from_last_stage(flat)
        return list(flat.split(sizes))

    def _broadcast_from_last_stage(self, tensor: torch.Tensor) -> None:
        size = dist.get_world_size(self._pipeline_group)
        if size > 1:
            dist.broadcast(
                tensor, dist.get_global_rank(self._pipeline_group, size - 1), group=self._pipeline_group
            )

    # Memory.

    def offload(self) -> None:
        """Move weights and optimizer state to host memory and drop gradients. On the host itself a no-op."""
        if self._accelerator.device_type == "cpu":
            return
        if self._optimizer is not None:
            self._host.move_out(offload.gradient_buffers(self._ddp), keep=False)
            self._host.move_out(offload.optimizer_tensors(self._optimizer))
        self._host.move_out(offload.parameter_tensors(self._model))
        self._accelerator.empty_cache()

    def onload(self) -> None:
        """Bring back what `offload` moved."""
        self._host.move_back()


def _one(like: torch.Tensor) -> torch.Tensor:
    """A token count that Megatron adds up and nobody divides by."""
    return torch.ones((), dtype=torch.int, device=like.device)
