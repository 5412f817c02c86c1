"""A transformers model's tensors under the names that its files have."""

from collections.abc import Mapping

import torch

HALVES: Mapping[str, tuple[str, ...]] = {
    "gate_up_proj": ("gate_proj", "up_proj"),
    "down_proj": ("down_proj",),
}
"""What transformers stacks over a layer's experts, [experts, rows, columns], and whose rows these are."""


def file_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters, and buffers that belong to the weights, by name; tied ones are there under each of theirs.

    Of stacked experts there is a view for each matrix of each."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        home, _, last = name.rpartition(".")
        if not home.endswith(".mlp.experts") or last not in HALVES:
            found[name] = tensor
            continue
        halves = HALVES[last]
        for number, expert in enumerate(tensor.detach()):
            for half, part in zip(halves, expert.chunk(len(halves)), strict=True):
                found[f"{home}.{number}.{half}.weight"] = part
    return found
