"""Where metrics go beside metrics.jsonl: TensorBoard and Weights & Biases."""

import importlib.util
import netrc
import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from mindrl.config.trainer import LoggingConfig
from mindrl.errors import RequestError

WANDB_URL = "https://api.wandb.ai"
REACH_SECONDS = 5.0
SWITCHES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}


class Sink(Protocol):
    """Takes the numbers of a step."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send one step's metrics."""
        ...

    def close(self, *, failed: bool) -> None:
        """Flush and end; nothing of the sink runs on. `failed` says how the run ended."""
        ...


@dataclass(frozen=True, slots=True)
class WandbSettings:
    """A Weights & Biases run that was asked for and can be served."""

    project: str
    offline: bool
    """Write to disk only; `wandb sync` uploads it later."""


def wandb_settings(logging: LoggingConfig, environ: Mapping[str, str] = os.environ) -> WandbSettings | None:
    """What the configuration and the environment ask for together; None when W&B is not asked for.

    The environment variables `enable_wandb` and `wandb_project` override the configuration. `RequestError` when W&B
    is asked for but can't be served: package missing, or online without an API key. Opens no connection."""
    if not _enabled(logging, environ):
        return None
    mode = environ.get("WANDB_MODE", "online").lower()
    if mode not in ("online", "offline", "disabled"):
        raise RequestError(f"WANDB_MODE is {mode!r}; choose online, offline or disabled")
    if mode == "disabled":
        return None
    if importlib.util.find_spec("wandb") is None:
        raise RequestError(
            "logging.enable_wandb asks for Weights & Biases, but the package wandb is not installed: "
            "`pip install wandb`, or set logging.enable_wandb=false"
        )
    if mode == "online" and not _has_api_key(environ):
        raise RequestError(
            "logging.enable_wandb asks for Weights & Biases, but there is no API key: set WANDB_API_KEY, "
            "or `wandb login` first, or set WANDB_MODE=offline to write to the run directory only"
        )
    project = environ.get("wandb_project") or logging.wandb_project
    return WandbSettings(project=project, offline=mode == "offline")


def require_wandb_server(environ: Mapping[str, str] = os.environ) -> None:
    """`RequestError` unless a connection to the W&B server, or to the proxy on the way there, can be made."""
    url = urlsplit(environ.get("WANDB_BASE_URL") or WANDB_URL)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise RequestError(f"WANDB_BASE_URL is {url.geturl()!r}; give an address such as {WANDB_URL}")
    via = url
    if not proxy_bypass(url.hostname):
        via = urlsplit(getproxies().get(url.scheme) or url.geturl())
    address = (via.hostname or "", via.port or {"http": 80, "https": 443}.get(via.scheme, 443))
    try:
        socket.create_connection(address, timeout=REACH_SECONDS).close()
    except OSError as error:
        raise RequestError(
            f"logging.enable_wandb asks for Weights & Biases, but {url.geturl()} can't be reached "
            f"({address[0]}:{address[1]}: {error.strerror or error}). Check the network, or set WANDB_MODE=offline "
            "to write to the run directory only (`wandb sync` uploads it later)"
        ) from error


def _enabled(logging: LoggingConfig, environ: Mapping[str, str]) -> bool:
    text = environ.get("enable_wandb")
    if text is None:
        return logging.enable_wandb
    if text.lower() not in SWITCHES:
        raise RequestError(f"the environment variable enable_wandb is {text!r}; set it to True or False")
    return SWITCHES[text.lower()]


def _has_api_key(environ: Mapping[str, str]) -> bool:
    """Looks where wandb does: the environment, then the netrc file that `wandb login` writes."""
    if environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(environ.get("WANDB_BASE_URL", WANDB_URL)).hostname or ""
    path = Path(environ.get("NETRC") or Path.home() / ".netrc")
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class TensorBoardSink:
    """Event files for TensorBoard, which shows nothing of earlier files beyond `steps_done`."""

    def __init__(self, directory: Path, steps_done: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = steps_done + 1 if steps_done else None
        self._writer = SummaryWriter(log_dir=str(directory), purge_step=purge)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # a run that is killed keeps every step it finished

    def close(self, *, failed: bool) -> None:
        del failed
        self._writer.close()


class WandbSink:
    """A Weights & Biases run whose files lie under `<logs>/wandb`, and whose id in `<logs>/wandb_id`.

    A resumed run continues under its id; steps that W&B has already stay there as they were first sent."""

    def __init__(self, settings: WandbSettings, logs: Path, run_name: str) -> None:
        import wandb

        logs.mkdir(parents=True, exist_ok=True)
        id_file = logs / "wandb_id"
        if not id_file.exists():
            id_file.write_text(uuid.uuid4().hex[:8])
        self._wandb = wandb
        self._run = wandb.init(
            project=settings.project,
            name=run_name,
            id=id_file.read_text(),
            resume=None if settings.offline else "allow",
            dir=str(logs),
            mode="offline" if settings.offline else "online",
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
        self._wandb.teardown()  # also ends its service process, which would outlive the run
