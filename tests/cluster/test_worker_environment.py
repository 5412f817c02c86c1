"""Whose setting a worker gets, and by which interface workers talk."""

import os

import pytest

import hal
from mindrl.cluster.environment import use_interface_of_launch, worker_environment
from mindrl.config.runtime import ClusterConfig

CPU = hal.choose("cpu")


def test_a_worker_gets_the_defaults_of_its_device(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environment = worker_environment(ClusterConfig(devices_per_node=10_000), CPU, {})
    assert environment["OMP_NUM_THREADS"] == "1"


def test_what_the_user_set_goes_before_a_default_and_cluster_env_before_everything(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    engine = {"VLLM_LOGGING_LEVEL": "ERROR"}
    assert worker_environment(ClusterConfig(), CPU, engine)["OMP_NUM_THREADS"] == "3"
    cluster = ClusterConfig(env={"OMP_NUM_THREADS": "5", "VLLM_LOGGING_LEVEL": "INFO", "HF_HUB_OFFLINE": 0})
    environment = worker_environment(cluster, CPU, engine)
    assert [environment[name] for name in ("OMP_NUM_THREADS", "VLLM_LOGGING_LEVEL", "HF_HUB_OFFLINE")] == [
        "5", "INFO", "0"
    ]  # fmt: skip


def test_workers_talk_over_the_interface_that_the_launch_found_on_their_own_node(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("MINDRL_INTERFACE", "eth7")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that it is put back as it was
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    assert "GLOO_SOCKET_IFNAME" not in worker_environment(ClusterConfig(), CPU, {})
    use_interface_of_launch(CPU)
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"


def test_an_interface_that_was_set_before_stays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MINDRL_INTERFACE", "eth7")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    use_interface_of_launch(CPU)
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"
