"""What a node finds out about itself before a launch starts anything."""

import re
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

import hal
from hal.devices.cpu import CpuAccelerator
from mindrl.cluster import launch
from mindrl.cluster.launch import await_head, find_yaml, read
from mindrl.cluster.launch_part import Part, find_part
from mindrl.cluster.launch_variables import read_variables
from mindrl.cluster.nodes import Node, short_of_devices, short_of_nodes
from mindrl.cluster.ports import greets_as_ray, holder
from mindrl.config.runtime import ClusterConfig
from mindrl.errors import RequestError

TINY = {"DEFAULT_YAML": "configs/grpo_quickstart.yaml"}
UNREACHED = "192.0.2.77"  # RFC 5737: no machine has it


def part(environ: Mapping[str, str]) -> Part:
    return find_part(read_variables(environ))


REFUSED = [
    ({"DEFAULT_YAML": ""}, "DEFAULT_YAML is not set"),
    ({"DEFAULT_YAML": "grpo_qwikstart"}, "did you mean configs/grpo_quickstart.yaml?"),
    ({"NNODES": "none"}, "NNODES is 'none'"),
    ({"NPUS_PER_NODE": "0"}, "NPUS_PER_NODE is '0'"),
    ({"JOIN_TIMEOUT": "soon"}, "JOIN_TIMEOUT is 'soon'"),
    ({"NNODES": "2"}, "MASTER_ADDR is not set"),
    ({"NNODES": "2", "MASTER_ADDR": "127.0.0.1"}, "MASTER_ADDR is 127.0.0.1, which every machine calls itself"),
    ({"CURRENT_IP": "127.9.9.9"}, "not an address of this machine"),
    ({"MASTER_ADDR": "nowhere.invalid"}, "not known to this machine's name service"),
    ({"MASTER_PORT": "99999"}, "MASTER_PORT is '99999'"),
    ({"SOCKET_IFNAME": "nic9"}, "this machine has no interface nic9"),
    ({"NODE_RANK": "1"}, "NODE_RANK is '1', and NNODES is 1"),
    ({"NNODES": "2", "MASTER_ADDR": UNREACHED, "CURRENT_IP": "127.0.0.1", "RANK": "0"}, "NODE_RANK is 0, but"),
    ({"NPUS_PER_NODE": "2", "GPUS_PER_NODE": "4"}, "NPUS_PER_NODE is 2 and GPUS_PER_NODE is 4; set one of them"),
    ({"RAY_ADDRESS": "10.0.0.1:6379"}, "launch scripts start a Ray of their own"),
]  # fmt: skip


@pytest.mark.parametrize(("environment", "reason"), REFUSED, ids=["-".join(each) for each, _ in REFUSED])
def test_a_launch_that_cannot_be_meant_is_refused(environment: Mapping[str, str], reason: str):
    with pytest.raises(RequestError, match=re.escape(reason)):
        read(TINY | dict(environment), [])


def test_nothing_but_a_configuration_means_this_machine_with_all_its_devices():
    found = read(TINY, ["trainer.total_steps=7", "--overwrite"])
    assert (found["num_nodes"], found["num_devices"], found["is_head"]) == ("1", "1", "true")
    assert found["head_ip"] == found["node_ip"] == "127.0.0.1"
    assert found["ray_arguments"] == ["--num-cpus=1"]
    assert found["arguments"] == [
        "configs/grpo_quickstart.yaml", "cluster.num_nodes=1", "cluster.devices_per_node=1",
        "trainer.total_steps=7", "--overwrite",
    ]  # fmt: skip


def test_the_nodes_wait_for_each_other_as_the_configuration_says_unless_the_environment_does():
    assert read(TINY, ["cluster.join_timeout_seconds=70"])["join_timeout"] == "70.0"
    assert "cluster.join_timeout_seconds=50" in read({**TINY, "JOIN_TIMEOUT": "50"}, [])["arguments"]


class NodeOfFour(CpuAccelerator):
    """A node with four devices."""

    device_type = "abacus"
    ray_resource = "ABACUS"

    def device_count(self) -> int:
        return 4


def test_all_devices_of_a_node_take_part_and_no_more_than_there_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hal, "choose", lambda name: NodeOfFour())
    found = read(TINY, ["actor.micro_batch_size=4"])
    assert (found["num_devices"], found["ray_arguments"]) == ("4", ['--resources={"ABACUS": 4}'])
    with pytest.raises(RequestError, match=r"NPUS_PER_NODE: 8 devices of kind .* were asked for .* sees 4"):
        read({**TINY, "NPUS_PER_NODE": "8"}, [])


def test_a_node_knows_its_address_from_the_way_to_the_first_one():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((UNREACHED, 9))
        except OSError:
            pytest.skip("this machine has no network")
        address = probe.getsockname()[0]
    found = part({"NNODES": "2", "MASTER_ADDR": UNREACHED})
    assert found.node_ip == address
    assert not found.is_head
    assert part({"NNODES": "2", "MASTER_ADDR": address}).is_head


def test_an_interface_may_stand_for_the_address():
    assert part({"SOCKET_IFNAME": "lo"}).interface == "lo"
    found = part({"NNODES": "2", "MASTER_ADDR": UNREACHED, "GLOO_SOCKET_IFNAME": "lo"})
    assert found.node_ip == "127.0.0.1"


def test_the_established_names_of_counts_are_taken_and_a_line_says_so():
    variables = read_variables({"GPUS_PER_NODE": "8", "NUM_NODES": "2"})
    assert (variables.get("NPUS_PER_NODE"), variables.get("NNODES")) == ("8", "2")
    assert set(variables.notices) == {
        "GPUS_PER_NODE=8 is taken as NPUS_PER_NODE",
        "NUM_NODES=2 is taken as NNODES",
    }


def test_a_variable_without_effect_is_answered_with_ours():
    assert read_variables({"MODEL_PATH": "Qwen"}).notices == (
        "MODEL_PATH has no effect; give model.path=...",
    )
    assert read_variables({"WORLD_SIZE": "2", "NNODES": "2"}).notices == ()
    (notice,) = read_variables({"WORLD_SIZE": "2"}).notices
    assert "give NNODES" in notice


def test_the_first_argument_may_name_the_configuration_as_established_scripts_have_it():
    assert find_yaml("x", ["grpo_qwen3_8b", "a=1"]) == (Path("configs/grpo_qwen3_8b.yaml"), ["a=1"])
    assert find_yaml("grpo_qwen3_8b.yaml", ["a=1"]) == (Path("configs/grpo_qwen3_8b.yaml"), ["a=1"])
    with pytest.raises(RequestError, match="give the configuration as the first argument"):
        find_yaml(None, ["--config-name=grpo_qwen3_8b"])
    with pytest.raises(RequestError, match="here NNODES says that"):
        find_yaml("grpo_qwen3_8b", ["cluster.num_nodes=2"])


def test_waiting_ends_when_the_first_node_answers_as_ray_does(capfd: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=greet, args=(server,), daemon=True)
        thread.start()
        await_head("127.0.0.1", server.getsockname()[1], 5)
    thread.join(timeout=5)


def greet(server: socket.socket) -> None:
    """Two connections: a look whether the port is open, and one that is greeted as by HTTP/2."""
    server.accept()[0].close()
    connection, _ = server.accept()
    connection.recv(100)
    connection.sendall(b"\0\0\0\4\0\0\0\0\0")


def test_something_else_at_the_first_nodes_port_is_told_from_ray():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not greets_as_ray("127.0.0.1", port, 0.2)
        assert holder("127.0.0.1", port) is not None
    assert holder("127.0.0.1", port) is None


def test_a_machine_that_never_answers_is_given_up_before_one_that_refuses(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(launch, "SAY_SECONDS", 0.0)
    with pytest.raises(
        RequestError, match=r"gave up on the first node at 127\.0\.0\.1:9 after 1 s: connection refused"
    ):
        await_head("127.0.0.1", 9, 1)
    assert "waiting for the first node at 127.0.0.1:9: connection refused" in capfd.readouterr().err
    monkeypatch.setattr(launch, "SILENCE_SECONDS", 0.5)
    with pytest.raises(RequestError, match="JOIN_TIMEOUT says how long"):
        await_head(UNREACHED, 9, 1000)


def test_who_has_come_and_what_is_missing_is_said():
    cluster = ClusterConfig(num_nodes=3, devices_per_node=8, join_timeout_seconds=60)
    nodes = [Node("10.0.0.1", 8), Node("10.0.0.2", 8)]
    assert (
        "2 of 3 node(s) have joined, 1 missing. Here: 10.0.0.1 with 8 X, 10.0.0.2 with 8 X."
        in short_of_nodes(cluster, "X", nodes)
    )
    assert "needs 8 X on each of 3 node(s), and this Ray has 10.0.0.1 with 8 X, 10.0.0.2 with 8 X" in (
        short_of_devices(cluster, "X", nodes)
    )
