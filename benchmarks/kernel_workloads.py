"""What `kernels.py` lets each op compute: inputs of a model's size, and the least work that the result needs.

Work is what has to happen whoever does it: matrix products of the result and of its gradients (nothing computed a second
time), and for ops without products every input read once and every result written once.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hal.kernels.facts import KernelFacts
from hal.kernels.moe_permute import routing
from hal.kernels.rotary import angles
from hal.kernels.token_loss import clipped_loss


@dataclass(frozen=True, slots=True)
class Size:
    """A model and a micro-batch."""

    tokens: int
    sequences: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    experts: int
    top_k: int
    expert_size: int
    parameters: int


SIZES: Mapping[str, Size] = {
    "tiny": Size(32, 2, 32, 4, 2, 8, 48, 300, 4, 2, 16, 1000),
    "small": Size(1024, 2, 896, 14, 2, 64, 4864, 32_768, 16, 4, 512, 8_000_000),
    "large": Size(8192, 4, 3584, 28, 4, 128, 18_944, 152_064, 64, 8, 1408, 500_000_000),
}
"""`small` has the layers of a model with half a billion parameters, `large` of one with seven (experts: of a mixture)."""


@dataclass(frozen=True, slots=True)
class Work:
    """Of one pass: floating-point operations of matrix products, or bytes where there are none."""

    flops: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Workload:
    """One call of an op."""

    op: str
    name: str
    shape: str
    """For people."""
    arguments: tuple[Any, ...]
    """Tensors, or lists of them; gradients are taken of those that require one."""
    forward: Work
    backward: Work | None
    """None: the op has no backward pass."""
    options: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What differs from a dense model's."""
    passes_are_one: bool = False
    """The forward pass does the work of the backward pass too: only both together can be compared."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Makes workloads of one size, on one device, in one type."""

    size: Size
    device: torch.device
    dtype: torch.dtype

    def facts(self, changes: Mapping[str, Any]) -> KernelFacts:
        """Of the model."""
        size = self.size
        known = {
            "dtype": self.dtype,
            "head_dim": size.head_dim,
            "num_heads": size.heads,
            "num_kv_heads": size.kv_heads,
            "hidden_size": size.hidden,
            "vocab_size": size.vocab,
        }
        return KernelFacts(**{**known, **changes})

    def numbers(self, *shape: int, grad: bool = True) -> torch.Tensor:
        """Standard normal."""
        return torch.randn(*shape, device=self.device, dtype=self.dtype).requires_grad_(grad)

    def moved(self, elements: float) -> Work:
        """That many elements read or written."""
        return Work(bytes=elements * self.dtype.itemsize)

    def of(self, op: str) -> list[Workload]:
        """The op's workloads, which are as large as the size says."""
        return list(WORKLOADS[op](self))


def _rms_norm(bench: Bench) -> Iterable[Workload]:
    tokens, hidden = bench.size.tokens, bench.size.hidden
    yield Workload(
        "rms_norm",
        "rows",
        f"{tokens} x {hidden}",
        (bench.numbers(tokens, hidden), bench.numbers(hidden), 1e-6),
        bench.moved(2 * tokens * hidden),
        bench.moved(3 * tokens * hidden),
    )


def _swiglu(bench: Bench) -> Iterable[Workload]:
    tokens, ffn = bench.size.tokens, bench.size.ffn
    yield Workload(
        "swiglu",
        "rows",
        f"{tokens} x 2 x {ffn}",
        (bench.numbers(tokens, 2 * ffn),),
        bench.moved(3 * tokens * ffn),
        bench.moved(5 * tokens * ffn),
    )


def _rotary(bench: Bench) -> Iterable[Workload]:
    size = bench.size
    length = size.tokens // size.sequences
    cos, sin = (angle.to(bench.device, bench.dtype) for angle in angles(length, size.head_dim))
    elements = size.tokens * size.heads * size.head_dim
    yield Workload(
        "rotary",
        "queries",
        f"{length} x {size.sequences} x {size.heads} x {size.head_dim}",
        (bench.numbers(length, size.sequences, size.heads, size.head_dim), cos, sin),
        bench.moved(2 * elements),
        bench.moved(2 * elements),
    )


def _attention(bench: Bench) -> Iterable[Workload]:
    size = bench.size
    length = size.tokens // size.sequences
    for name in ("dense", "packed"):
        leading = (size.sequences, length) if name == "dense" else (size.tokens,)
        options: dict[str, Any] = {"softmax_scale": size.head_dim**-0.5}
        if name == "packed":
            ends = torch.arange(0, size.tokens + 1, length, dtype=torch.int32, device=bench.device)
            options |= {"cu_seqlens": ends, "max_seqlen": length}
        # Two products over half of a square, and five in the backward pass, the scores' own included: no
        # implementation keeps those.
        flops = 2 * 2 * size.tokens * length / 2 * size.heads * size.head_dim
        yield Workload(
            "attention",
            name,
            f"{size.sequences} x {length}, {size.heads}/{size.kv_heads} heads of {size.head_dim}, causal",
            (
                bench.numbers(*leading, size.heads, size.head_dim),
                bench.numbers(*leading, size.kv_heads, size.head_dim),
                bench.numbers(*leading, size.kv_heads, size.head_dim),
            ),
            Work(flops=flops),
            Work(flops=2.5 * flops),
            options,
            {"packed": name == "packed"},
        )


def _log_prob_inputs(bench: Bench) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    size = bench.size
    with torch.no_grad():
        weight = bench.numbers(size.vocab, size.hidden, grad=False).mul_(2 * size.hidden**-0.5)
    return (
        bench.numbers(size.tokens, size.hidden),
        weight.requires_grad_(),
        torch.randint(size.vocab, (size.tokens,), device=bench.device),
    )


def _token_log_probs(bench: Bench) -> Iterable[Workload]:
    size = bench.size
    product = 2 * size.tokens * size.hidden * size.vocab
    yield Workload(
        "token_log_probs",
        "log-probs",
        f"{size.tokens} x {size.hidden} x {size.vocab}",
        _log_prob_inputs(bench),
        Work(flops=product),
        Work(flops=2 * product),
        {"temperature": 1.0, "vocab_size": size.vocab},
    )


def _token_loss(bench: Bench) -> Iterable[Workload]:
    for workload in _token_log_probs(bench):
        yield Workload(
            "token_loss",
            "clipped loss",
            workload.shape,
            (*workload.arguments, clipped_loss),
            workload.forward,
            workload.backward,
            workload.options,
            passes_are_one=True,
        )


def _expert_facts(size: Size) -> dict[str, Any]:
    return {"num_experts": size.experts, "expert_size": size.expert_size}


def _grouped_matmul(bench: Bench) -> Iterable[Workload]:
    size = bench.size
    per_expert = routing(size.tokens, size.experts, size.top_k, seed=0).sum(dim=0)
    rows = int(per_expert.sum())
    flops = 2 * rows * size.hidden * size.expert_size
    yield Workload(
        "grouped_matmul",
        "experts",
        f"{rows} rows, {size.experts} experts of {size.hidden} x {size.expert_size}",
        (
            bench.numbers(rows, size.hidden),
            bench.numbers(size.experts, size.hidden, size.expert_size),
            per_expert,
        ),
        Work(flops=flops),
        Work(flops=2 * flops),
        facts=_expert_facts(size),
    )


def _moe_permute(bench: Bench) -> Iterable[Workload]:
    size = bench.size
    rows = size.tokens * size.top_k
    elements = (size.tokens + rows) * size.hidden
    yield Workload(
        "moe_permute",
        f"top {size.top_k}",
        f"{size.tokens} x {size.hidden} to {size.experts} experts",
        (
            bench.numbers(size.tokens, size.hidden),
            routing(size.tokens, size.experts, size.top_k, seed=0).to(bench.device),
        ),
        bench.moved(elements),
        bench.moved(elements),
        {"num_rows": rows},
        _expert_facts(size),
    )


def _moe_unpermute(bench: Bench) -> Iterable[Workload]:
    size = bench.size
    routing_map = routing(size.tokens, size.experts, size.top_k, seed=0).to(bench.device)
    rows = size.tokens * size.top_k
    elements = (size.tokens + rows) * size.hidden
    probs = torch.rand(size.tokens, size.experts, device=bench.device).mul(routing_map).requires_grad_()
    yield Workload(
        "moe_unpermute",
        f"top {size.top_k}",
        f"{rows} rows to {size.tokens} x {size.hidden}",
        (bench.numbers(rows, size.hidden), routing_map.T.nonzero(as_tuple=True)[1], probs, routing_map),
        bench.moved(elements),
        bench.moved(elements + rows * size.hidden),  # a prob's gradient reads the row again
        {"num_tokens": size.tokens},
        _expert_facts(size),
    )


def _adamw(bench: Bench) -> Iterable[Workload]:
    num_tensors, elements = 8, bench.size.parameters // 8
    # Optimizers keep float32, whatever the model's type.
    lists = [[torch.rand(elements, device=bench.device) for _ in range(num_tensors)] for _ in range(4)]
    yield Workload(
        "adamw",
        "float32",
        f"{num_tensors} x {elements} parameters",
        tuple(lists),
        Work(bytes=7 * 4 * num_tensors * elements),
        None,
        {"step": 10, "lr": 1e-6, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.01},
        {"own_optimizer": True, "dtype": torch.float32},
    )


WORKLOADS: Mapping[str, Callable[[Bench], Iterable[Workload]]] = {
    "rms_norm": _rms_norm,
    "attention": _attention,
    "rotary": _rotary,
    "swiglu": _swiglu,
    "token_log_probs": _token_log_probs,
    "token_loss": _token_loss,
    "grouped_matmul": _grouped_matmul,
    "moe_permute": _moe_permute,
    "moe_unpermute": _moe_unpermute,
    "adamw": _adamw,
}
"""By op; a test compares with the registry."""
