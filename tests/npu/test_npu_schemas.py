"""Every torch_npu operator that a kernel of hal calls: written down here, and of the shapes and types its schema says.

Each call on the virtual NPU, forward and backward, is repeated on fake tensors with torch_npu's own shape functions, as
`torch.compile` would. Whether Ascend's kernels compute it is not checked: none is here.
"""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import hal
from hal.kernels.registry import OPS
from hal.testing.cases import Case, cases
from hal.testing.kernel_checks import run

_GATHER = "npu_gather_backward"
"""The gradient that torch_npu gives to torch.gather."""

CALLED: dict[str, set[str]] = {
    "rms_norm": {"npu_rms_norm", "npu_rms_norm_backward"},
    "rotary": {"npu_rotary_mul", "npu_rotary_mul_backward"},
    "swiglu": {"npu_swiglu", "npu_swiglu_backward"},
    "attention": {"npu_fusion_attention", "npu_fusion_attention_grad"},
    "grouped_matmul": {"npu_grouped_matmul"},
    "moe_permute": {
        "npu_moe_token_permute_with_routing_map",
        "npu_moe_token_permute_with_routing_map_grad",
        _GATHER,
    },
    # Below torch_npu's autograd, which is where calls are seen, npu_moe_token_unpermute has this name.
    "moe_unpermute": {"_npu_moe_token_unpermute", "npu_moe_token_unpermute_grad_v2"},
    "adamw": {"npu_apply_adam_w.out"},
    "token_log_probs": {_GATHER},
    "token_loss": {_GATHER},
}
"""By operation: what its providers and its reference call of torch_npu, gradients included."""


class Recorder(TorchDispatchMode):
    """Notes torch_npu's operators, and wherein a result differs from what fake tensors say."""

    def __init__(self) -> None:
        super().__init__()
        self.called: set[str] = set()
        self.differences: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace != "npu":
            return func(*args, **kwargs)
        name = func.name().removeprefix("npu::")
        self.called.add(name)
        expected = _on_fake_tensors(func, args, kwargs)
        found = func(*args, **kwargs)
        self.differences += [
            f"{name}: result {index} is {there}, fake {said}"
            for index, (there, said) in enumerate(zip(_kinds(found), _kinds(expected), strict=True))
            if said is not None and there != said
        ]
        return found


def _on_fake_tensors(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mode = FakeTensorMode()

    def fake(value: Any) -> Any:
        return mode.from_tensor(value) if isinstance(value, torch.Tensor) else value

    with mode:
        return func(*tree_map(fake, args), **tree_map(fake, kwargs))


def _kinds(results: Any) -> list[str | None]:
    """Type, shape and device of each result that is a tensor; of shape [0] are places that nothing is put into."""
    whole = results if isinstance(results, tuple | list) else (results,)
    return [
        f"{result.dtype} {list(result.shape)} {result.device.type}"
        if isinstance(result, torch.Tensor) and result.shape != (0,)
        else None
        for result in whole
    ]


@pytest.mark.parametrize("op", OPS)
def test_kernels_call_what_is_written_down_and_get_what_its_schema_says(
    npu: hal.Accelerator, op: str
) -> None:
    recorder = Recorder()
    for case in cases(npu):
        if case.op.name == op:
            record(recorder, case)
    assert recorder.called == CALLED[op]
    assert recorder.differences == []


def record(recorder: Recorder, case: Case) -> None:
    sample = case.rounded()
    with recorder:
        run(case.op, case.provider.function, sample)
