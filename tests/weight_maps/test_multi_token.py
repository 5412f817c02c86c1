"""Layers for multi-token prediction, of Megatron-core with weights through the map, compute what DeepSeek-V3's report
says (arXiv:2412.19437, section 2.2): eq. 21 to 24 by hand in float64, with transformers' decoder layer for its
transformer block, because transformers has no forward pass of its own for these layers."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from families import MODELS, Model, write
from megatron_models import build, load
from torch.func import functional_call
from transformers import AutoConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3DecoderLayer,
    DeepseekV3RotaryEmbedding,
)

from mindrl.weight_maps import TensorRule
from tests.distributed import run_distributed

LENGTH = 12
Named = dict[str, torch.Tensor]


@pytest.mark.parametrize("name", [name for name, settings in MODELS.items() if "mtp" in settings])
def test_predictions_of_further_tokens_and_their_gradients_are_the_reports(tmp_path, name):
    model = write(tmp_path, name, tied=False)
    expected = by_the_report(model)
    [found] = run_distributed(by_megatron, 1, tmp_path, name)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert (torch.from_numpy(found[key]) - tensor).abs().max() <= 1e-5 * tensor.abs().max(), key


def inputs(model: Model) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and what the decoder made of them: [LENGTH], [LENGTH, hidden_size]."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, model.architecture.vocab_size, (LENGTH,), generator=generator)
    return ids, torch.randn(LENGTH, model.architecture.hidden_size, generator=generator)


def by_the_report(model: Model) -> Named:
    """Log-probs of token i + k + 1 by the k-th layer, and gradients of their sum by Hugging Face name."""
    ids, hidden = inputs(model)
    named = {name: tensor.double().requires_grad_() for name, tensor in model.tensors.items()}
    config = AutoConfig.for_model(**model.config)
    config._attn_implementation = config._experts_implementation = "eager"
    arch = model.architecture
    start = hidden.double().requires_grad_()
    before, results = start, Named()
    for depth in range(1, arch.num_mtp_layers + 1):
        prefix = f"model.layers.{arch.num_layers + depth - 1}."
        # i runs over the tokens that have one k places on; [embedding; hidden] is the published order.
        embedded = F.embedding(ids[depth:], named["model.embed_tokens.weight"])
        before = before[: LENGTH - depth]
        both = [
            rms_norm(embedded, named[f"{prefix}enorm.weight"], arch.rms_norm_eps),
            rms_norm(before, named[f"{prefix}hnorm.weight"], arch.rms_norm_eps),
        ]
        combined = torch.cat(both, dim=-1) @ named[f"{prefix}eh_proj.weight"].T  # eq. 21
        after = transformer_block(config, prefix, named, combined)  # eq. 22
        normed = rms_norm(after, named[f"{prefix}shared_head.norm.weight"], arch.rms_norm_eps)
        logits = normed[: LENGTH - depth - 1] @ named["lm_head.weight"].T  # eq. 23
        results[f"log-probs of layer {depth}"] = chosen(logits, ids[depth + 1 :])  # eq. 24
        # The report hands on `after`; Megatron-core norms it first, which matters from the second layer on.
        before = normed
    torch.cat(list(results.values())).sum().backward()
    results["hidden"] = start.grad
    results |= {name: tensor.grad for name, tensor in named.items() if tensor.grad is not None}
    return {name: tensor.detach().float() for name, tensor in results.items()}


def rms_norm(tensor: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return tensor * torch.rsqrt(tensor.square().mean(-1, keepdim=True) + eps) * weight


def chosen(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]


def transformer_block(config, prefix: str, named: Named, hidden: torch.Tensor) -> torch.Tensor:
    """transformers' decoder layer over [tokens, hidden_size], with the layer's tensors out of `named`."""
    layer = DeepseekV3DecoderLayer(config, config.num_hidden_layers - 1).double().eval()
    own = {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}
    numbers = range(config.n_routed_experts)
    weights = {name: own[name] for name in layer.state_dict() if name in own} | {
        "mlp.experts.gate_up_proj": torch.stack(
            [
                torch.cat([own[f"mlp.experts.{n}.{half}_proj.weight"] for half in ("gate", "up")])
                for n in numbers
            ]
        ),
        "mlp.experts.down_proj": torch.stack([own[f"mlp.experts.{n}.down_proj.weight"] for n in numbers]),
    }
    assert weights.keys() == layer.state_dict().keys()
    positions = torch.arange(len(hidden))[None]
    rotary = DeepseekV3RotaryEmbedding(config)(hidden[None], positions)
    mask = torch.full((len(hidden), len(hidden)), -torch.inf, dtype=torch.float64).triu(1)
    return functional_call(
        layer,
        weights,
        (hidden[None],),
        {"attention_mask": mask[None, None], "position_embeddings": rotary, "position_ids": positions},
    )[0]


def by_megatron(directory: Path, name: str) -> dict[str, np.ndarray]:
    """The same of Megatron-core's block of such layers."""
    model = Model(directory, name)
    network = build(model.architecture, "project")
    load(network, model.map, model.tensors)
    ids, hidden = inputs(model)
    start = hidden.requires_grad_()
    positions = torch.arange(LENGTH)[None]
    together = network.mtp(
        input_ids=ids[None],
        position_ids=positions,
        hidden_states=start[:, None],
        attention_mask=None,
        embedding=network.embedding,
    )
    results = Named()
    for depth, after in enumerate(together.chunk(1 + model.architecture.num_mtp_layers)[1:], start=1):
        logits = network.output_layer(after)[0][: LENGTH - depth - 1, 0]
        results[f"log-probs of layer {depth}"] = chosen(logits, ids[depth + 1 :])
    torch.cat(list(results.values())).sum().backward()
    results["hidden"] = start.grad
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    for rule in model.map.rules:
        gradient = gradient_of(rule, gradients)
        if gradient is not None:
            results |= dict(rule.split(gradient))
    return {name: tensor.detach().numpy() for name, tensor in results.items()}


def gradient_of(rule: TensorRule, gradients: dict[str, torch.Tensor | None]) -> torch.Tensor | None:
    if rule.expert is None:
        return gradients.get(rule.megatron_name)
    together = gradients[rule.megatron_name.replace(f".experts.{rule.expert}.", ".experts.")]
    return None if together is None else together[rule.expert]
