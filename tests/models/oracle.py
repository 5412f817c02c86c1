"""The same optimizer steps by transformers and autograd alone: no micro-batches, no padding, no kernels of ours."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers

from mindrl.algorithms.objective import PolicyObjective
from mindrl.config.schema import Config
from mindrl.data.records import Sample
from mindrl.models.backend import MiniBatch

Named = dict[str, torch.Tensor]


@dataclass(frozen=True)
class OracleStep:
    """What one optimizer step should show."""

    log_probs: list[np.ndarray]
    sums: dict[str, float]
    gradients: Named
    grad_norm: float
    parameters: Named
    """After the step."""


def load_model(directory: Path) -> torch.nn.Module:
    """transformers' model with eager attention, in float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )


def published(named: Named) -> Named:
    """Tensors of a model in memory as its files have them: transformers stacks a layer's experts."""
    found: Named = {}
    for name, tensor in named.items():
        home, _, last = name.rpartition(".")
        if not home.endswith("mlp.experts"):
            found[name] = tensor
            continue
        halves = ("gate_proj", "up_proj") if last == "gate_up_proj" else ("down_proj",)
        for number, expert in enumerate(tensor):
            for half, part in zip(halves, expert.chunk(len(halves)), strict=True):
                found[f"{home}.{number}.{half}.weight"] = part
    return found


def router_biases(model: torch.nn.Module) -> Named:
    """The buffers that belong to the weights."""
    return {
        name: tensor for name, tensor in model.named_buffers() if name.endswith("e_score_correction_bias")
    }


def sample_log_probs(
    model: torch.nn.Module, sample: Sample, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs and entropies [response_length] of one sample, alone in its batch."""
    tokens = torch.from_numpy(np.concatenate([sample.prompt_ids, sample.response_ids])).long()
    start = len(sample.prompt_ids) - 1
    table = (model(tokens[None]).logits[0, start:-1] / temperature).log_softmax(-1)
    picked = table.gather(1, tokens[start + 1 :, None])[:, 0]
    return picked, -(table.exp() * table).sum(-1)


def oracle_steps(directory: Path, config: Config, mini_batches: list[MiniBatch]) -> list[OracleStep]:
    """One AdamW step a mini-batch, from the weights in `directory`."""
    model = load_model(directory)
    adamw = config.actor.optimizer
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": adamw.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=adamw.lr,
        betas=adamw.betas,
        eps=adamw.eps,
    )
    return [_one_step(model, optimizer, config, mini_batch) for mini_batch in mini_batches]


def _one_step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, config: Config, mini_batch: MiniBatch
) -> OracleStep:
    found = [sample_log_probs(model, sample, config.rollout.temperature) for sample in mini_batch.samples]
    lengths = torch.tensor([len(sample.response_ids) for sample in mini_batch.samples])
    old, ref = mini_batch.old_log_probs, mini_batch.ref_log_probs
    loss, sums = PolicyObjective.from_config(config.algorithm)(
        torch.cat([log_probs for log_probs, _ in found]),
        torch.cat([entropy for _, entropy in found]),
        old_log_probs=None if old is None else torch.from_numpy(np.concatenate(old)),
        ref_log_probs=None if ref is None else torch.from_numpy(np.concatenate(ref)),
        advantages=torch.from_numpy(mini_batch.advantages).repeat_interleave(lengths),
        token_weights=torch.from_numpy(mini_batch.token_weights).repeat_interleave(lengths),
        mask=torch.from_numpy(np.concatenate([sample.response_mask for sample in mini_batch.samples])),
    )
    optimizer.zero_grad()
    loss.backward()
    gradients = published({name: p.grad.clone() for name, p in model.named_parameters()})
    grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.actor.optimizer.clip_grad)
    optimizer.step()
    return OracleStep(
        log_probs=[log_probs.detach().numpy() for log_probs, _ in found],
        sums={name: float(value) for name, value in sums.items()},
        gradients=gradients,
        grad_norm=float(grad_norm),
        parameters=published({name: p.detach().clone() for name, p in model.named_parameters()})
        | router_biases(model),
    )


def worst_error(found: Named, expected: Named) -> tuple[float, str]:
    """Largest max|a-b| / max|b| over all tensors, and whose it is; tensors under 1e-8 count absolutely."""
    assert sorted(found) == sorted(expected), sorted(found.keys() ^ expected.keys())

    def error(name: str) -> float:
        difference = (found[name].cpu() - expected[name]).abs().max().item()
        largest = expected[name].abs().max().item()
        return difference if largest < 1e-8 else difference / largest

    return max((error(name), name) for name in expected)
