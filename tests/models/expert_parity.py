"""What a rank with experts or latent attention does beside transformers, on any accelerator."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mindrl.checkpoint.training import load_checkpoint, save_checkpoint
from tests.models.expert_models import KINDS, Layout, MegatronModel, hf_model, oracle, token_rows, worst

TOLERANCE = 1e-5


def save_oracles(root: Path) -> None:
    """What transformers and AdamW make of every model."""
    for kind in KINDS:
        torch.save(oracle(kind), root / kind)
    hf_model(KINDS[0]).config.save_pretrained(root)  # checkpoints take the model's files along


def one_step(root: Path, kind: str, layout: Layout, accelerator: str = "cpu") -> float:
    """Loss, gradients and weights after one step; returns the worst gradient's error."""
    before, after, _ = torch.load(root / kind)
    model = MegatronModel(kind, layout, accelerator)
    model.load(before["weights"])
    loss, gradients = model.loss_and_gradients(token_rows(0))
    assert loss == pytest.approx(before["loss"], rel=1e-6)
    of_gradients, name = worst(gradients, before["gradients"])
    assert of_gradients < TOLERANCE, f"{kind}: gradient of {name} is off by {of_gradients:.1e}"
    model.step()
    error, name = worst(model.parameters(), after["weights"])
    assert error < TOLERANCE, f"{kind}: {name} is off by {error:.1e} after the step"
    return of_gradients


def packed_and_alone(kind: str, layout: Layout, accelerator: str = "cpu") -> float:
    """Packed sequences beside each alone in transformers; returns the worst gradient's error."""
    sequences = [token_rows(seed)[0, :length] for seed, length in enumerate((5, 13, 9, 17))]
    original = hf_model(kind)
    losses = [row_losses(original, sequence) for sequence in sequences]
    loss = torch.cat(losses).mean()
    loss.backward()
    model = MegatronModel(kind, layout, accelerator)
    model.load({name: tensor.detach() for name, tensor in original.state_dict().items()})
    found, gradients = model.packed_loss_and_gradients(sequences)
    assert found == pytest.approx(loss.item(), rel=1e-6)
    expected = {name: parameter.grad for name, parameter in original.named_parameters()}
    error, name = worst(gradients, expected)
    assert error < TOLERANCE, f"{kind}: gradient of {name} is off by {error:.1e}"
    return error


def row_losses(model: torch.nn.Module, sequence: torch.Tensor) -> torch.Tensor:
    """[tokens that follow others]"""
    return F.cross_entropy(model(sequence[None, :-1]).logits[0], sequence[1:], reduction="none")


def recompute_error(root: Path, kind: str, accelerator: str = "cpu") -> float:
    """How far gradients with dropout move when activations are recomputed, on two tensor-parallel ranks."""
    dropout = {"hidden_dropout": 0.2, "attention_dropout": 0.1}
    recompute = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    before, _, _ = torch.load(root / kind)
    found: list[dict[str, torch.Tensor]] = []
    for settings in (dropout, dropout | recompute):
        model = MegatronModel(kind, Layout(tensor=2, expert=2), accelerator, **settings)
        model.load(before["weights"])
        found.append(
            {name: tensor.clone() for name, tensor in model.loss_and_gradients(token_rows())[1].items()}
        )
    without = worst(found[0], before["gradients"])[0]
    assert without > 0.01, "dropout drops nothing"
    return max((found[0][name] - found[1][name]).abs().max().item() for name in found[0])


def save_after_a_step(
    root: Path, kind: str, layout: Layout, checkpoint: Path, accelerator: str = "cpu"
) -> None:
    """The first step, into a checkpoint."""
    before, _, _ = torch.load(root / kind)
    model = MegatronModel(kind, layout, accelerator)
    model.load(before["weights"])
    model.loss_and_gradients(token_rows(0))
    model.step()
    save_checkpoint(checkpoint, 1, model.state(), root)


def load_and_take_a_step(
    root: Path, kind: str, layout: Layout, checkpoint: Path, accelerator: str = "cpu"
) -> None:
    """The second step, from that checkpoint."""
    _, middle, after = torch.load(root / kind)
    model = MegatronModel(kind, layout, accelerator)
    model.load_state(load_checkpoint(checkpoint, model.state(for_loading=True)))
    error, name = worst(model.parameters(), middle["weights"])
    assert error < TOLERANCE, f"{name} is off by {error:.1e} after loading"
    model.loss_and_gradients(token_rows(1))
    model.step()
    error, name = worst(model.parameters(), after["weights"])
    assert error < TOLERANCE, f"{name} is off by {error:.1e} a step after loading"
