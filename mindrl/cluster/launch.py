"""What examples/grpo/_launch.sh asks before it starts anything, answered for the shell.

    python -m mindrl.cluster.launch read [YAML] [key=value ...] [--option ...]    this node's part, as assignments
    python -m mindrl.cluster.launch await HOST PORT SECONDS                       until Ray's port on the first node opens

Exit codes: 0 done, 2 a request that can't be served. Neither starts or writes anything, and neither imports Ray.
"""

import ipaddress
import os
import shlex
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from omegaconf import OmegaConf

from mindrl.cluster.authentication import ADDRESS
from mindrl.cluster.launch_variables import Variables, read_variables
from mindrl.cluster.ports import connection_error, free_port, greets_as_ray, holder, in_words
from mindrl.config import load
from mindrl.config.loading import compose
from mindrl.config.names import nearest
from mindrl.errors import RequestError

CONFIGS = Path("configs")
JOIN_SECONDS = 300
"""How long the nodes wait for each other, unless JOIN_TIMEOUT says so."""
DEFAULT_PORT = 6379
"""Ray's own choice; on one node a free port is taken instead."""
SILENCE_SECONDS = 40.0
"""A first node whose machine has not even refused a connection for so long has another address."""
SAY_SECONDS = 15.0
"""How often a node that waits for the first one says so."""


@dataclass(frozen=True, slots=True)
class Part:
    """This node's part in a run: where it is, and where the first node is."""

    num_nodes: int
    head_ip: str
    node_ip: str
    interface: str
    """Network interface that holds `node_ip`."""

    @property
    def is_head(self) -> bool:
        """Whether this is the first node."""
        return self.node_ip == self.head_ip


def read(environ: Mapping[str, str], arguments: Sequence[str]) -> dict[str, str | list[str]]:
    """Shell variables of this launch; `RequestError` for what can't be meant or can't be had on this node."""
    variables = read_variables(environ)
    for notice in variables.notices:
        print(f"launch: {notice}", file=sys.stderr)
    if environ.get(ADDRESS):
        raise RequestError(
            f"{ADDRESS} is {environ[ADDRESS]}, and launch scripts start a Ray of their own. Unset it, or run `mindrl "
            "train CONFIG key=value ...`, which joins the Ray that it names"
        )
    yaml, rest = find_yaml(variables.get("DEFAULT_YAML"), arguments)
    part = find_part(variables)
    port = find_port(variables, part)
    overrides = [argument for argument in rest if not argument.startswith("-")]
    devices, ray_arguments = find_devices(variables, yaml, overrides)
    join_timeout = _count(variables, "JOIN_TIMEOUT", "seconds to wait for the other nodes") or JOIN_SECONDS
    counts = [
        f"cluster.num_nodes={part.num_nodes}",
        f"cluster.devices_per_node={devices}",
        f"cluster.join_timeout_seconds={join_timeout}",
    ]
    load(yaml, [*counts, *overrides])
    return {
        "num_nodes": str(part.num_nodes),
        "num_devices": str(devices),
        "head_ip": part.head_ip,
        "node_ip": part.node_ip,
        "port": str(port),
        "join_timeout": str(join_timeout),
        "is_head": "true" if part.is_head else "false",
        "interface": part.interface,
        "arguments": [str(yaml), *counts, *rest],
        "ray_arguments": ray_arguments,
    }


def find_yaml(default: str | None, arguments: Sequence[str]) -> tuple[Path, list[str]]:
    """The configuration, and the other arguments. A first argument without `=` names it in DEFAULT_YAML's place."""
    rest = list(arguments)
    if rest and rest[0].partition("=")[0] == "--config-name":
        raise RequestError(f"{rest[0]}: give the configuration as the first argument, or as DEFAULT_YAML")
    name = rest.pop(0) if rest and "=" not in rest[0] and not rest[0].startswith("-") else default
    if not name:
        raise RequestError(
            "DEFAULT_YAML is not set; name the run's configuration, such as configs/grpo_quickstart.yaml"
        )
    for argument in rest:
        key = argument.partition("=")[0]
        if key in ("cluster.num_nodes", "cluster.devices_per_node"):
            variable = "NNODES" if key == "cluster.num_nodes" else "NPUS_PER_NODE"
            raise RequestError(f"{argument}: here {variable} says that; set it on every node")
    for path in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml"):
        if path.is_file():
            return path, rest
    known = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    near = nearest(Path(name).stem, known)
    hint = f"did you mean {CONFIGS / near}.yaml?" if near else f"there are {', '.join(known)} in {CONFIGS}"
    raise RequestError(f"DEFAULT_YAML: there is no {name}; {hint}")


def find_part(variables: Variables) -> Part:
    """Addresses of this node and the first one, and whether the other variables agree with them."""
    num_nodes = _count(variables, "NNODES", "nodes") or 1
    held = _interfaces()
    head = variables.get("MASTER_ADDR")
    if head is None:
        if num_nodes > 1:
            raise RequestError(
                f"NNODES is {num_nodes}, but MASTER_ADDR is not set; give the first node's address on every node"
            )
        head = variables.get("CURRENT_IP") or "127.0.0.1"
    head_ip = _resolve("MASTER_ADDR", head)
    if num_nodes > 1 and ipaddress.ip_address(head_ip).is_loopback:
        raise RequestError(
            f"MASTER_ADDR is {head}, which every machine calls itself, and NNODES is {num_nodes}; give the address "
            "under which the other nodes reach the first one"
        )
    node_ip = _node_ip(variables, head_ip, held)
    if node_ip not in held:
        raise RequestError(
            f"CURRENT_IP: {node_ip} is not an address of this machine, which has {', '.join(sorted(held))}"
        )
    part = Part(num_nodes, head_ip, node_ip, held[node_ip])
    _check_rank(variables, part)
    return part


def find_port(variables: Variables, part: Part) -> int:
    """Ray's port on the first node; there, `RequestError` where somebody has it."""
    text = variables.get("MASTER_PORT")
    if text is None and part.num_nodes == 1:
        return free_port(part.node_ip)
    if text is not None and not (text.isdecimal() and 0 < int(text) < 65536):
        raise RequestError(
            f"MASTER_PORT is {text!r}; give a port between 1 and 65535, the same on every node"
        )
    port = int(text) if text is not None else DEFAULT_PORT
    if part.is_head and (by := holder(part.node_ip, port)):
        raise RequestError(
            f"MASTER_PORT {port} on {part.node_ip} is in use by {by}. Another run, or a Ray of yours? Set another "
            "MASTER_PORT on every node; nothing was started and nothing stopped"
        )
    return port


def find_devices(variables: Variables, yaml: Path, overrides: Sequence[str]) -> tuple[int, list[str]]:
    """Devices of this node that take part (all, unless NPUS_PER_NODE says how many), and what `ray start` is told."""
    given = _count(variables, "NPUS_PER_NODE", "worker processes per node")
    name = OmegaConf.select(OmegaConf.create(compose(yaml)), "hal.accelerator") or "auto"
    for override in overrides:
        key, _, value = override.partition("=")
        name = value if key == "hal.accelerator" else name
    import hal  # takes torch, and most refusals come before
    from hal.launch import ray_start_arguments

    accelerator = hal.choose(name)
    devices = given or accelerator.device_count()
    try:
        return devices, ray_start_arguments(accelerator, devices)
    except hal.HalError as error:
        raise RequestError(f"NPUS_PER_NODE: {error}") from error


def await_head(host: str, port: int, seconds: float) -> None:
    """Return when something listens there; say now and then that nothing does; `RequestError` when it takes too long.

    A machine that refuses the connection is there and may still be starting; one that never answers is not there."""
    started = said = last_sign = time.monotonic()
    while (error := connection_error(host, port, 2.0)) is not None:
        now = time.monotonic()
        refusal = in_words(error)
        if isinstance(error, ConnectionRefusedError):
            last_sign = now
        if now - started > seconds or now - last_sign > SILENCE_SECONDS:
            raise RequestError(
                f"gave up on the first node at {host}:{port} after {now - started:.0f} s: {refusal}. Check MASTER_ADDR "
                "and MASTER_PORT, the network between the nodes, and that the first node has started; JOIN_TIMEOUT "
                "says how long to wait for it"
            )
        if now - said > SAY_SECONDS:
            said = now
            print(
                f"launch: waiting for the first node at {host}:{port}: {refusal}", file=sys.stderr, flush=True
            )
        time.sleep(0.3)
    if not greets_as_ray(host, port, 5.0):
        raise RequestError(
            f"what listens at {host}:{port} is not the first node's Ray; check MASTER_ADDR and MASTER_PORT"
        )


def _count(variables: Variables, name: str, what: str) -> int | None:
    text = variables.get(name)
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise RequestError(f"{name} is {text!r}; give a number: {what}")
    return int(text)


def _interfaces() -> dict[str, str]:
    """IPv4 address -> interface, of this machine."""
    return {
        address.address: name
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family == socket.AF_INET
    }


def _resolve(variable: str, host: str) -> str:
    try:
        return socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0]
    except (OSError, UnicodeError) as error:
        raise RequestError(f"{variable} {host!r} is not known to this machine's name service") from error


def _node_ip(variables: Variables, head_ip: str, held: Mapping[str, str]) -> str:
    """CURRENT_IP, or the address of the interface that is named, or the one this machine reaches the first node from."""
    given, interface = variables.get("CURRENT_IP"), variables.get("SOCKET_IFNAME")
    on_interface = [address for address, name in held.items() if name == interface]
    if interface and not on_interface:
        raise RequestError(
            f"SOCKET_IFNAME: this machine has no interface {interface} with an IPv4 address; it has "
            f"{', '.join(sorted(set(held.values())))}"
        )
    if given:
        address = _resolve("CURRENT_IP", given)
        if interface and address not in on_interface:
            raise RequestError(
                f"CURRENT_IP is {given} and SOCKET_IFNAME is {interface}, which has {', '.join(on_interface)}; "
                "set one of them"
            )
        return address
    if head_ip in held:
        return head_ip
    gloo = variables.get("GLOO_SOCKET_IFNAME")
    on_gloo = [address for address, name in held.items() if name == gloo]
    return next(iter(on_interface or on_gloo), None) or _address_towards(head_ip)


def _address_towards(host: str) -> str:
    """Where packets to `host` leave this machine; none is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
        except OSError as error:
            raise RequestError(
                f"this node can't reach MASTER_ADDR {host}: {in_words(error)}; check the address, or set CURRENT_IP"
            ) from error
        return probe.getsockname()[0]


def _check_rank(variables: Variables, part: Part) -> None:
    """NODE_RANK is not needed, for the address says who is first; but it must not say something else."""
    text = variables.get("NODE_RANK")
    if text is None:
        return
    if not text.isdecimal() or int(text) >= part.num_nodes:
        raise RequestError(f"NODE_RANK is {text!r}, and NNODES is {part.num_nodes}; ranks count from 0")
    if (int(text) == 0) != part.is_head:
        raise RequestError(
            f"NODE_RANK is {text}, but this node's address is {part.node_ip} and the first node's {part.head_ip}; the "
            "node at MASTER_ADDR has rank 0. Correct MASTER_ADDR or CURRENT_IP, or leave NODE_RANK out"
        )


def _assignments(variables: Mapping[str, str | list[str]]) -> str:
    """`name=value` or `name=(value value)` a line, for the shell's eval."""
    return "\n".join(
        f"{name}=({shlex.join(value)})" if isinstance(value, list) else f"{name}={shlex.quote(value)}"
        for name, value in variables.items()
    )


def main(arguments: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    verb, *rest = arguments
    try:
        if verb == "read":
            print(_assignments(read(os.environ, rest)))
        else:
            await_head(rest[0], int(rest[1]), float(rest[2]))
    except _refusals() as error:  # evaluated only when something was raised
        print(f"launch: {error}", file=sys.stderr)
        return 2
    return 0


def _refusals() -> tuple[type[Exception], ...]:
    """Ours, and hal's where it has been loaded."""
    hal_errors = sys.modules.get("hal.errors")
    return (RequestError,) if hal_errors is None else (RequestError, hal_errors.HalError)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
