"""Which node of a run this one is, by its addresses."""

import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from mindrl.cluster.launch_variables import Variables
from mindrl.cluster.ports import in_words
from mindrl.errors import RequestError


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


def find_part(variables: Variables) -> Part:
    """Addresses of this node and the first one, and whether the other variables agree with them."""
    num_nodes = variables.count("NNODES", "nodes") or 1
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
