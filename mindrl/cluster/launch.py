"""What examples/grpo/_launch.sh asks before it starts anything, answered for the shell.

    python -m mindrl.cluster.launch read [YAML] [key=value ...] [--option ...]    this node's part, as assignments
    python -m mindrl.cluster.launch await HOST PORT SECONDS                       until Ray's port on the first node opens

Exit codes: 0 done, 2 a request that can't be served. Neither starts or writes anything, and neither imports Ray.
"""

import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from mindrl.cluster.authentication import ADDRESS
from mindrl.cluster.launch_part import Part, find_part
from mindrl.cluster.launch_variables import Variables, read_variables
from mindrl.cluster.ports import connection_error, free_port, greets_as_ray, holder, in_words
from mindrl.config import load
from mindrl.config.loading import compose
from mindrl.config.names import nearest
from mindrl.errors import RequestError

CONFIGS = Path("configs")
DEFAULT_PORT = 6379
"""Ray's own choice; on one node a free port is taken instead."""
SILENCE_SECONDS = 40.0
"""A first node whose machine has not even refused a connection for so long has another address."""
SAY_SECONDS = 15.0
"""How often a node that waits for the first one says so."""


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
    counts = [f"cluster.num_nodes={part.num_nodes}", f"cluster.devices_per_node={devices}"]
    if join_timeout := variables.count("JOIN_TIMEOUT", "seconds to wait for the other nodes"):
        counts.append(f"cluster.join_timeout_seconds={join_timeout}")
    config = load(yaml, [*counts, *overrides])
    return {
        "num_nodes": str(part.num_nodes),
        "num_devices": str(devices),
        "head_ip": part.head_ip,
        "node_ip": part.node_ip,
        "port": str(port),
        "join_timeout": str(config.cluster.join_timeout_seconds),
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
    given = variables.count("NPUS_PER_NODE", "worker processes per node")
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
