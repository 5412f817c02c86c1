"""Which kernel computes this: chosen once, for reasons, for everybody."""

import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

import hal
from hal.kernels.provider import Provider
from hal.kernels.registry import OPS, check_signature, providers
from hal.kernels.sample import SMALL

HOST = hal.choose("cpu")


def test_auto_takes_the_first_provider_that_can_serve_and_says_why_not_the_others() -> None:
    kernels = hal.select(HOST, replace(SMALL, packed=True))
    assert kernels.providers["attention"] == "torch_sdpa"
    assert "CUDA only" in kernels.reasons["attention"]["torch_varlen"]
    assert kernels.reasons["attention"]["reference"] == "torch_sdpa comes first"
    assert kernels.providers["token_log_probs"] == "torch_chunked"


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_its_kernel_under_its_own_name(op: str) -> None:
    kernels = hal.select(HOST, SMALL, {op: "reference"})
    assert getattr(kernels, op) is OPS[op].reference
    assert kernels.providers[op] == "reference"


def test_an_explicit_choice_works_or_raises_with_every_providers_reason() -> None:
    with pytest.raises(hal.KernelUnavailableError) as raised:
        hal.select(HOST, replace(SMALL, packed=True), {"attention": "torch_varlen"})
    message = str(raised.value)
    for provider in providers("attention"):
        assert f"  {provider.name}: " in message
    assert "'torch_varlen' was asked for and can't serve it" in message
    assert "Choose one of: torch_sdpa, reference, auto." in message


def test_unknown_ops_and_providers_are_refused() -> None:
    with pytest.raises(hal.HalError, match="ops that do not exist: atention"):
        hal.select(HOST, SMALL, {"atention": "reference"})
    with pytest.raises(hal.KernelUnavailableError, match="no provider of that name"):
        hal.select(HOST, SMALL, {"attention": "flash_attention_9"})


def test_ops_that_the_model_never_computes_are_chosen_but_not_shown() -> None:
    dense = hal.select(HOST, SMALL)
    experts = hal.select(HOST, replace(SMALL, num_experts=4, expert_size=16))
    own_optimizer = hal.select(HOST, replace(SMALL, own_optimizer=True))
    of_experts = {"grouped_matmul", "moe_permute", "moe_unpermute"}
    shown = set(dense.as_dict()["kernels"])
    assert set(experts.as_dict()["kernels"]) - shown == of_experts
    assert set(own_optimizer.as_dict()["kernels"]) - shown == {"adamw"}
    assert "moe_permute" in experts.table()
    assert "moe_permute" not in dense.table()
    assert dense.moe_permute is experts.moe_permute


def test_products_of_experts_are_one_launch_where_types_and_sizes_allow() -> None:
    def chosen(**facts: Any) -> tuple[str, Mapping[str, str]]:
        kernels = hal.select(HOST, replace(SMALL, num_experts=4, **facts))
        return kernels.providers["grouped_matmul"], kernels.reasons["grouped_matmul"]

    assert chosen(expert_size=16)[0] == "torch_grouped_mm"
    provider, reasons = chosen(expert_size=13)
    assert provider == "torch"
    assert "multiple of 16 bytes, not of 13" in reasons["torch_grouped_mm"]
    assert "not torch.float64" in chosen(expert_size=16, dtype=torch.float64)[1]["torch_grouped_mm"]


def test_experts_without_a_size_are_refused() -> None:
    with pytest.raises(ValueError, match="both or neither"):
        replace(SMALL, num_experts=4)


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="4 query heads can't share 3"):
        replace(SMALL, num_kv_heads=3)


def test_a_selection_travels_between_processes() -> None:
    kernels = hal.select(HOST, SMALL)
    assert pickle.loads(pickle.dumps(kernels)) == kernels


def test_a_selection_is_for_people_and_for_machines() -> None:
    kernels = hal.select(HOST, SMALL)
    assert "not reference: torch_sdpa comes first" in kernels.table()
    assert kernels.as_dict()["kernels"]["attention"]["provider"] == "torch_sdpa"
    assert kernels.as_dict()["facts"]["dtype"] == "float32"


def test_a_provider_with_another_signature_is_refused() -> None:
    def half(x: torch.Tensor, wait: float) -> torch.Tensor:
        return x * wait

    with pytest.raises(hal.HalError, match=r"takes \(x, wait\), but the contract is \(x\)"):
        check_signature(Provider("swiglu", "half", half))
