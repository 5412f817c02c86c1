"""Which engine a run gets, and what is refused."""

import importlib.util
from pathlib import Path

import pytest
import torch
from rollout_models import largest_gap, make_model, named_tensors, requests

from hal.devices.cpu import CpuAccelerator
from mindrl.config.rollout import RolloutConfig
from mindrl.errors import RequestError
from mindrl.rollout import choose
from mindrl.rollout.choose import (
    check_engine_args,
    choose_engine,
    engine_environment,
    vllm_unavailable_reason,
)
from mindrl.rollout.engine import generate
from mindrl.weight_maps import read_architecture

CPU = CpuAccelerator()
DENSE, LATENT = (
    read_architecture(Path(__file__).parents[2] / "configs" / "model" / name)
    for name in ("qwen3-8b", "moonlight-16b-a3b")
)


def config(**keys: object) -> RolloutConfig:
    return RolloutConfig.model_validate({"n_samples": 2, **keys})


@pytest.fixture
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(choose, "find_spec", lambda name: None if name == "vllm" else find_spec(name))


def test_auto_takes_vllm_where_it_runs() -> None:
    reason = vllm_unavailable_reason(CPU)
    if reason is not None:
        pytest.skip(reason)
    assert choose_engine(config(), CPU, DENSE) == choose.EngineChoice("vllm", None)


def test_auto_falls_to_transformers_and_says_so_in_one_line(without_vllm: None) -> None:
    choice = choose_engine(config(), CPU, DENSE)
    assert choice.name == "hf"
    assert choice.notice == (
        "rollout: transformers instead of vLLM, because the package vllm is not installed; "
        "install one of the sets in requirements/"
    )


def test_vllm_asked_for_by_name_is_refused_with_the_reason(without_vllm: None) -> None:
    with pytest.raises(
        RequestError, match=r"rollout\.engine=vllm was asked for, but the package vllm is not installed"
    ):
        choose_engine(config(engine="vllm"), CPU, DENSE)


def test_latent_attention_that_vllm_computes_wrongly_goes_to_transformers() -> None:
    if vllm_unavailable_reason(CPU) is not None:
        pytest.skip("there is no vLLM to be refused")
    choice = choose_engine(config(), CPU, LATENT)
    assert choice.name == "hf"
    assert "vLLM on CPU computes multi-head latent attention wrongly" in str(choice.notice)
    with pytest.raises(RequestError, match="engine=vllm was asked for, but vLLM on CPU computes"):
        choose_engine(config(engine="vllm"), CPU, LATENT)


def test_a_processor_too_old_for_vllm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr(choose, "find_spec", lambda name: object())
    assert (
        vllm_unavailable_reason(CPU) == "vLLM needs a processor with AVX2 or AVX512, and this one has DEFAULT"
    )


def test_a_missing_system_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(choose, "find_spec", lambda name: object())
    monkeypatch.setattr(choose, "_loads", lambda library: False)
    assert "install the system package libnuma1" in str(vllm_unavailable_reason(CPU))


def test_transformers_refuses_what_only_vllm_can_do() -> None:
    with pytest.raises(
        RequestError, match="tensor_parallel_size=2 was asked for, but the hf engine runs on one device"
    ):
        choose_engine(config(engine="hf", tensor_parallel_size=2), CPU, DENSE)
    with pytest.raises(RequestError, match=r"engine_args=.* they are vLLM's and the rollout engine is hf"):
        check_engine_args(config(engine="hf", engine_args={"block_size": 32}), CPU, DENSE)


def test_the_environment_adds_to_the_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_environment(CPU).items() > CPU.rollout_environment().items()


def test_make_engine_builds_the_chosen_one(tmp_path: Path) -> None:
    model = make_model(tmp_path, "llama", tied=True)
    engine = choose.make_engine(
        config(engine="hf"),
        tmp_path,
        dtype=torch.float32,
        max_model_length=64,
        max_sequences=4,
        seed=0,
        job_id="unused",
        accelerator=CPU,
    )
    engine.update_weights(named_tensors(model), 0)
    assert largest_gap(model, generate(engine, requests(6)), 1.0) < 1e-4
    engine.close()
