"""AdamW whose step is a kernel of the HAL."""

from collections.abc import Iterable
from typing import Any

import torch

from hal.kernels.adamw import Adamw


class KernelAdamW(torch.optim.AdamW):
    """torch's AdamW with the selection's kernel in place of its step; state and checkpoints are torch's."""

    def __init__(
        self, groups: Iterable[dict[str, Any]], kernel: Adamw, *, betas: tuple[float, float], eps: float
    ) -> None:
        """`groups` as torch's optimizers take them, with `lr` and `weight_decay` in each."""
        super().__init__(groups, betas=betas, eps=eps)
        self._kernel = kernel

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step the parameters that have a gradient; all of a group have taken the same number of steps."""
        assert closure is None
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if not params:
                continue
            states = [self._state(param) for param in params]
            for state in states:
                state["step"] += 1
            steps = {int(state["step"]) for state in states}
            assert len(steps) == 1, f"parameters of one group have taken {steps} steps"
            self._kernel(
                params,
                [param.grad for param in params],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                step=steps.pop(),
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                eps=group["eps"],
                weight_decay=group["weight_decay"],
            )

    def _state(self, param: torch.Tensor) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = self.state[param]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(param), torch.zeros_like(param)
        return state
