"""Which kernel computes this: chosen once, for reasons, for everybody."""

import pickle
from dataclasses import replace

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


def test_no_attention_provider_claims_context_parallelism_that_it_lacks() -> None:
    with pytest.raises(hal.KernelUnavailableError, match="context_parallel_size"):
        hal.select(HOST, replace(SMALL, context_parallel_size=2))


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


def test_dropped_attention_probabilities_are_made_up_for() -> None:
    query = key = torch.zeros(1, 64, 4, 8)
    value = torch.ones(1, 64, 4, 8)
    for provider in providers("attention")[1:]:
        torch.manual_seed(0)
        output = provider.function(query, key, value, softmax_scale=1.0, causal=False, dropout_p=0.5)
        assert output.std() > 0, "nothing was dropped"
        assert abs(output.mean() - 1) < 0.05
