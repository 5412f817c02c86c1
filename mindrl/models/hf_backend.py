"""A training backend on transformers' own modules: small, obvious, and the oracle of the parity tests.

Every rank holds the whole model; with several ranks the default process group is the data-parallel group.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, PreTrainedModel

from hal import Accelerator, Selection
from mindrl.algorithms.objective import PolicyObjective
from mindrl.config.schema import Config
from mindrl.data.records import FloatArray, Sample
from mindrl.models.backend import GradientStats, MiniBatch, Part
from mindrl.models.batching import MicroBatch, micro_batches, per_sample_arrays, token_terms
from mindrl.models.kernel_facts import DTYPES
from mindrl.models.reduction import add_up
from mindrl.weight_maps import Architecture


class HfBackend:
    """A whole policy on one device. `trainable=False` makes a reference policy."""

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
        """Takes the weights of `config.model.path`; layers are transformers', only log-probs are the HAL's."""
        if config.actor.model_parallel_size != 1:
            raise ValueError("the Hugging Face backend has no tensor or pipeline parallelism")
        if trainable and objective is None:
            raise ValueError("a trainable backend needs an objective")
        self._config = config
        self._architecture = architecture
        self._accelerator = accelerator
        self._selection = selection
        self._objective = objective
        self._dtype = DTYPES[config.actor.dtype]
        self._trainable = trainable
        self.load_hf(config.model.path)

    # Weights.

    def load_hf(self, directory: Path) -> None:
        """Take the weights of a Hugging Face directory, and start the optimizer afresh."""
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            directory, dtype=self._dtype, attn_implementation="sdpa"
        )
        self.model = model.to(self._accelerator.device()).eval().requires_grad_(self._trainable)
        self._optimizer = self._make_optimizer() if self._trainable else None

    def _make_optimizer(self) -> torch.optim.AdamW:
        """AdamW over float32 copies of the weights; no weight decay on norms and biases."""
        options = self._config.actor.optimizer
        self._main = {param: param.detach().clone().float() for param in self.model.parameters()}
        groups = [
            {
                "params": [main for param, main in self._main.items() if (param.dim() == 1) == is_vector],
                "weight_decay": 0.0 if is_vector else options.weight_decay,
            }
            for is_vector in (False, True)
        ]
        return torch.optim.AdamW(groups, lr=options.lr, betas=options.betas, eps=options.eps)

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """See `TrainBackend`."""
        for name, param in self.model.named_parameters():
            yield name, param.detach()

    def state(self, parts: Collection[Part] = ("model",), *, for_loading: bool = False) -> dict[str, Any]:
        """`{"model": ...}` with whole tensors; this backend hands over weights only."""
        del for_loading
        if set(parts) != {"model"}:
            raise ValueError(f"the Hugging Face backend has no state for {sorted(set(parts) - {'model'})}")
        return {"model": self.model.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state`."""
        self.model.load_state_dict(state["model"])
        with torch.no_grad():
            for param, main in self._main.items() if self._trainable else ():
                main.copy_(param)

    # Passes.

    def log_probs(self, samples: Sequence[Sample]) -> list[FloatArray]:
        """See `TrainBackend`."""
        batches = self._micro_batches(samples)
        with torch.no_grad():
            found = [self._token_log_probs(batch)[0] for batch in batches]
        return per_sample_arrays(batches, found, len(samples))

    def accumulate_gradients(self, mini_batch: MiniBatch) -> GradientStats:
        """See `TrainBackend`."""
        self.model.zero_grad(set_to_none=True)
        self.model.train()
        batches = self._micro_batches(mini_batch.samples)
        outcomes: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []
        for batch in batches:
            log_probs, entropy = self._token_log_probs(batch)
            terms = token_terms(mini_batch, batch)
            loss, sums = self._objective(
                log_probs,
                entropy,
                old_log_probs=terms.old_log_probs,
                ref_log_probs=terms.ref_log_probs,
                advantages=terms.advantages,
                token_weights=terms.token_weights,
                mask=terms.mask,
            )
            loss.backward()
            outcomes.append((log_probs.detach(), sums))
        self.model.eval()
        self._sum_gradients()
        return GradientStats(
            sums=add_up([sums for _, sums in outcomes]),
            log_probs=per_sample_arrays(
                batches, [log_probs for log_probs, _ in outcomes], len(mini_batch.samples)
            ),
        )

    def _sum_gradients(self) -> None:
        """Float32 gradients of all ranks, on the main weights."""
        for param, main in self._main.items():
            main.grad = torch.zeros_like(main) if param.grad is None else param.grad.float()
            if dist.is_initialized() and dist.get_world_size() > 1:
                dist.all_reduce(main.grad)

    @torch.no_grad()
    def apply_gradients(self, lr: float) -> float:
        """See `TrainBackend`."""
        grad_norm = float(
            torch.nn.utils.clip_grad_norm_(list(self._main.values()), self._config.actor.optimizer.clip_grad)
        )
        if not math.isfinite(grad_norm):
            raise FloatingPointError(f"the global gradient norm is {grad_norm}; the step was not taken")
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        for param, main in self._main.items():
            param.copy_(main)
        return grad_norm

    def _micro_batches(self, samples: Sequence[Sample]) -> list[MicroBatch]:
        size = self._config.actor.micro_batch_size
        if not self._trainable:
            size = self._config.reference.micro_batch_size or size
        return micro_batches(samples, size, device=self._accelerator.device())

    def _token_log_probs(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probs and entropies [num_tokens] of the response tokens."""
        hidden = self.model.base_model(input_ids=batch.tokens, use_cache=False).last_hidden_state
        predicting = hidden.flatten(0, 1).index_select(0, batch.rows * hidden.shape[1] + batch.steps)
        return self._selection.token_log_probs(
            predicting,
            self.model.get_output_embeddings().weight,
            batch.targets,
            temperature=self._config.rollout.temperature,
            vocab_size=self._architecture.vocab_size,
        )

    # Memory: this backend keeps what it has on the device.

    def offload(self) -> None:
        """No effect."""

    def onload(self) -> None:
        """No effect."""
