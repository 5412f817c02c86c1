"""What the virtual NPU refuses, and in which words: operator, argument, what was found, what is wanted.

The rules are those of torch_npu's schemas and of its public documentation (`_op_plugin_docs.py` in the wheel)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import hal

pytestmark = pytest.mark.usefixtures("npu")


def rand(*shape: int, dtype: torch.dtype = torch.float32, device: str = "npu") -> torch.Tensor:
    return torch.rand(*shape).to(device, dtype)


def triangle() -> torch.Tensor:
    return torch.ones(2048, 2048, dtype=torch.bool).triu(1).npu()


def attention(**changes: Any) -> Any:
    """A call that is right, but for what is changed."""
    layout = changes.pop("layout", "BSND")
    heads = changes.pop("heads", 4)
    shapes = {"BSND": (2, 6), "TND": (10,)}[layout]
    arguments: dict[str, Any] = {
        "query": rand(*shapes, 4, 8),
        "key": rand(*shapes, 2, 8),
        "value": rand(*shapes, 2, 8),
    }
    options: dict[str, Any] = {"scale": 0.3}
    if layout == "TND":
        options |= {"actual_seq_qlen": [4, 10], "actual_seq_kvlen": [4, 10]}
    arguments |= {name: changes.pop(name) for name in tuple(arguments) if name in changes}
    return torch.ops.npu.npu_fusion_attention(*arguments.values(), heads, layout, **options | changes)


def grouped(*, x: Any = (6, 4), weight: Any = (2, 4, 5), group_list: Any = (2, 6), **options: Any) -> Any:
    groups = group_list if isinstance(group_list, torch.Tensor) else torch.tensor(group_list).npu()
    return torch.ops.npu.npu_grouped_matmul(
        [rand(*x)], [rand(*weight)], group_list=groups, **{"split_item": 2, "group_type": 0, **options}
    )


def permute(routing_map: torch.Tensor, **options: Any) -> Any:
    return torch.ops.npu.npu_moe_token_permute_with_routing_map(rand(3, 4), routing_map.npu(), **options)


def adamw(*, moment: torch.Tensor | None = None, **options: Any) -> Any:
    given = {"max_grad_norm": None, "amsgrad": False, "maximize": False} | options
    out = (rand(5), rand(5) if moment is None else moment, rand(5))
    return torch.ops.npu.npu_apply_adam_w.out(
        1, 1, 0.1, 0, 0.9, 0.99, 1e-8, rand(5), *given.values(), out=out
    )


half = torch.float16
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    # Mixed devices, in aten's operators and in the fused ones.
    "a sum of device and host": (
        lambda: rand(3) + rand(3, device="cpu"),
        r"same device, but found at least two devices, npu:0 and cpu! \(aten::add: argument 'other' is on cpu\)",
    ),
    "a product of device and host": (
        lambda: rand(3, 3) @ rand(3, 3, device="cpu"),
        "aten::mm: argument 'mat2' is on cpu",
    ),
    "two devices": (lambda: rand(3) + rand(3).to("npu:1"), "another npu"),
    "a norm with weights of the host": (
        lambda: torch.ops.npu.npu_rms_norm(rand(2, 8), rand(8, device="cpu")),
        "npu_rms_norm: argument 'gamma' is on cpu, wanted: on npu:0, where 'input' is",
    ),
    "a mask of the host": (
        lambda: attention(sparse_mode=3, atten_mask=triangle().cpu()),
        "argument 'atten_mask' is on cpu",
    ),
    # Types.
    "matrices of float64": (lambda: rand(3, 3).double() @ rand(3, 3).double(), "aten::mm: argument 'self' is Double"),
    "matrices of int64": (lambda: rand(3, 3).long() @ rand(3, 3).long(), "aten::mm: argument 'self' is Long"),
    "a norm of float64": (
        lambda: torch.ops.npu.npu_rms_norm(rand(2, 8).double(), rand(8).double()),
        "npu_rms_norm: argument 'input' is of type torch.float64",
    ),
    "a norm of bfloat16 with weights of float16": (
        lambda: torch.ops.npu.npu_rms_norm(rand(2, 8, dtype=torch.bfloat16), rand(8, dtype=half)),
        "'gamma' is of type torch.float16, wanted: torch.bfloat16",
    ),
    "attention of float64": (
        lambda: attention(**{name: rand(2, 6, 4, 8).double() for name in ("query", "key", "value")}),
        "npu_fusion_attention: argument 'query' is of type torch.float64",
    ),
    "attention of two types": (
        lambda: attention(key=rand(2, 6, 2, 8, dtype=half)),
        "'key' is of type torch.float16, wanted: torch.float32, the type of 'query'",
    ),
    "rotation of two types": (
        lambda: torch.ops.npu.npu_rotary_mul(rand(2, 6, 3, 8, dtype=half), rand(1, 6, 1, 8), rand(1, 6, 1, 8)),
        "npu_rotary_mul: argument 'r1' is of type torch.float32, wanted: torch.float16",
    ),
    "group sizes of int32": (
        lambda: grouped(group_list=torch.tensor([2, 6], dtype=torch.int32).npu()),
        "npu_grouped_matmul: argument 'group_list' is of type torch.int32",
    ),
    "moments of another type": (lambda: adamw(moment=rand(5, dtype=half)), "npu_apply_adam_w: argument 'm' is of type"),
    # Masks.
    "a causal mode without a mask": (
        lambda: attention(sparse_mode=3),
        "'atten_mask' is not given, wanted: the mask of sparse_mode 3; without one the device attends to everything",
    ),
    "a causal mode with a mask of the sequence's size": (
        lambda: attention(sparse_mode=2, atten_mask=triangle()[:6, :6].contiguous()),
        r"of shape \[6, 6\], wanted: \[2048, 2048\], the compressed mask of sparse_mode 2",
    ),
    "a causal mode with an inverted mask": (
        lambda: attention(sparse_mode=3, atten_mask=~triangle()),
        "'atten_mask' is another pattern, wanted: ones",
    ),
    "a mask of numbers": (
        lambda: attention(sparse_mode=3, atten_mask=triangle().float()),
        "'atten_mask' is of type torch.float32, wanted: torch.bool or torch.uint8",
    ),
    "a mask of another size": (
        lambda: attention(atten_mask=torch.zeros(5, 6, dtype=torch.bool).npu()),
        r"of shape \[5, 6\], wanted: \[2, 4, 6, 6\] or",
    ),
    "a packed call with a mask by heads": (
        lambda: attention(layout="TND", atten_mask=torch.zeros(2, 4, 6, 6, dtype=torch.bool).npu()),
        r"of shape \[2, 4, 6, 6\], wanted: \[6, 6\]",
    ),
    "a mask that is open where the band is closed": (
        lambda: attention(atten_mask=torch.zeros(6, 6, dtype=torch.bool).npu(), pre_tockens=6, next_tockens=0),
        "'atten_mask' is open where 'pre_tockens' and 'next_tockens' say that nothing is computed",
    ),
    "a mode that is not simulated": (
        lambda: attention(sparse_mode=7, atten_mask=triangle()),
        "'sparse_mode' is 7, wanted: 0 to 4; the virtual NPU does not simulate",
    ),
    # Packed lengths.
    "a packed call without lengths": (
        lambda: attention(layout="TND", actual_seq_qlen=None),
        "'actual_seq_qlen' is None, wanted: the cumulative lengths",
    ),
    "lengths in place of cumulative lengths": (
        lambda: attention(layout="TND", actual_seq_qlen=[6, 4]),
        r"'actual_seq_qlen' is \[6, 4\], wanted: cumulative lengths, which do not fall",
    ),
    "lengths that end before the tokens": (
        lambda: attention(layout="TND", actual_seq_kvlen=[4, 9]),
        "'actual_seq_kvlen' is cumulative lengths up to 9, wanted: up to 10, the tokens of 'key'",
    ),
    "different numbers of sequences": (
        lambda: attention(layout="TND", actual_seq_kvlen=[10]),
        "'actual_seq_kvlen' is 1 lengths, wanted: 2",
    ),
    "lengths as a tensor": (
        lambda: attention(layout="TND", actual_seq_qlen=torch.tensor([4, 10]).npu()),
        "actual_seq_qlen",
    ),
    "lengths with a dense layout": (
        lambda: attention(actual_seq_qlen=[6, 12], actual_seq_kvlen=[6, 12]),
        "lengths go with layout TND, and this is BSND",
    ),
    # Layouts, heads, sizes.
    "an unknown layout": (
        lambda: torch.ops.npu.npu_fusion_attention(rand(2, 6, 4, 8), rand(2, 6, 4, 8), rand(2, 6, 4, 8), 4, "NBSD"),
        "'input_layout' is 'NBSD', wanted: BSH or SBH or BSND or BNSD or TND",
    ),
    "a wrong number of heads": (lambda: attention(heads=8), "'head_num' is 8, wanted: 4, the heads of 'query'"),
    "heads that do not divide": (
        lambda: attention(key=rand(2, 6, 3, 8), value=rand(2, 6, 3, 8)),
        "'key' is of 3 heads, wanted: a divisor of 'head_num' 4",
    ),
    "values wider than keys": (
        lambda: attention(value=rand(2, 6, 2, 12)),
        "'value' is of head size 12, wanted: at most 8, that of 'key'",
    ),
    "another batch": (lambda: attention(key=rand(1, 6, 2, 8)), "'key' is of batch 1, wanted: 2"),
    "nothing kept": (lambda: attention(keep_prob=0.0), "'keep_prob' is 0.0, wanted: more than 0, at most 1"),
    "a position bias": (lambda: attention(pse=rand(2, 4, 6, 6)), "'pse' is given, wanted: nothing"),
    "weights of another length": (
        lambda: torch.ops.npu.npu_rms_norm(rand(2, 8), rand(4)),
        r"'gamma' is of shape \[4\], wanted: \[8\], the last dimensions of 'input'",
    ),
    "an odd size to halve": (lambda: torch.ops.npu.npu_swiglu(rand(2, 7)), r"'input' is of shape \[2, 7\], wanted: an even"),
    "cosines of two dimensions": (
        lambda: torch.ops.npu.npu_rotary_mul(rand(2, 6, 3, 8), rand(6, 8), rand(6, 8)),
        r"'r1' is of shape \[6, 8\], wanted: \[2, 6, 3, 8\], or 1",
    ),
    "an unknown rotation": (
        lambda: torch.ops.npu.npu_rotary_mul(rand(2, 6, 3, 8), rand(1, 6, 1, 8), rand(1, 6, 1, 8), "whole"),
        "'rotary_mode' is 'whole', wanted: half or interleave",
    ),
    "groups beyond the rows": (lambda: grouped(group_list=(2, 7)), "'group_list' is groups up to 7, wanted: at most 6"),
    "group ends that fall": (lambda: grouped(group_list=(6, 2)), r"'group_list' is \[6, 2\], wanted: ends"),
    "another number of matrices": (lambda: grouped(weight=(3, 4, 5)), "'weight' is 3 matrices, wanted: 2"),
    "matrices that do not fit": (lambda: grouped(weight=(2, 3, 5)), r"'weight\[0\]' is of shape \[3, 5\], wanted: \[4, 5\]"),
    "tokens with different numbers of experts": (
        lambda: permute(torch.tensor([[1, 0], [1, 1], [0, 1]]).bool(), num_out_tokens=4),
        "'routing_map' is with 1 to 2 experts a token, wanted: the same number",
    ),
    "another number of rows than routed": (
        lambda: permute(torch.ones(3, 2, dtype=torch.bool)),
        "'num_out_tokens' is None, wanted: 6",
    ),
    "padded groups": (
        lambda: permute(torch.ones(3, 2, dtype=torch.bool), num_out_tokens=6, drop_and_pad=True),
        "'drop_and_pad' is True, wanted: False",
    ),
    "rows numbered in int64": (
        lambda: torch.ops.npu.npu_moe_token_unpermute(rand(3, 4), torch.arange(3).npu()),
        "'sorted_indices' is of type torch.int64, wanted: torch.int32",
    ),
    "AMSGrad": (lambda: adamw(amsgrad=True), "'amsgrad' is True, wanted: False"),
}  # fmt: skip


@pytest.mark.parametrize("misuse", REFUSED)
def test_misuse_is_refused_with_what_was_found_and_what_is_wanted(misuse: str) -> None:
    call, words = REFUSED[misuse]
    with pytest.raises((RuntimeError, TypeError), match=words):
        call()


def test_the_calls_that_the_table_changes_are_right() -> None:
    assert attention()[0].shape == (2, 6, 4, 8)
    assert attention(sparse_mode=3, atten_mask=triangle())[0].shape == (2, 6, 4, 8)
    assert attention(layout="TND", sparse_mode=3, atten_mask=triangle())[0].shape == (10, 4, 8)
    assert grouped()[0].shape == (6, 5)
    assert permute(torch.ones(3, 2, dtype=torch.bool), num_out_tokens=6)[0].shape == (6, 4)
    adamw()


def test_an_operator_that_is_not_simulated_fails_by_name() -> None:
    with pytest.raises(RuntimeError, match="aclnn"):
        torch.ops.npu.npu_geglu(rand(4, 8))


def test_memory_runs_out_as_on_a_device(npu: hal.Accelerator) -> None:
    total = npu.memory_info().total
    with pytest.raises(torch.OutOfMemoryError, match="NPU out of memory"):
        torch.empty(2 * total, dtype=torch.uint8, device=npu.device())
    assert torch.ones(4, device=npu.device()).sum().item() == 4
