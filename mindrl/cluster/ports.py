"""Whether something listens at an address, and whether an address is free to listen at."""

import errno
import socket
from contextlib import suppress

import psutil

_SETTINGS = b"\x04"
"""Type of the frame that both sides of HTTP/2 begin with (RFC 9113, section 6.5)."""
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + _SETTINGS + b"\0" * 5


def connection_error(host: str, port: int, seconds: float) -> OSError | None:
    """Why no connection to host:port can be made within that time; None where one can."""
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError as error:
        return error
    return None


def greets_as_ray(host: str, port: int, seconds: float) -> bool:
    """Whether what listens there answers as Ray's first node does, by HTTP/2. Ray itself, told to join anything else,
    tries for many minutes."""
    try:
        with socket.create_connection((host, port), timeout=seconds) as connection:
            connection.sendall(_HTTP2_GREETING)
            return connection.recv(9)[3:4] == _SETTINGS
    except OSError:
        return False


def in_words(error: OSError) -> str:
    """An error of the network as part of a sentence."""
    return "no answer" if isinstance(error, TimeoutError) else (error.strerror or str(error)).lower()


def holder(host: str, port: int) -> str | None:
    """Who keeps us from listening at host:port, as far as can be seen; None where nobody does."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return in_words(error)
            return _listener(port) or "another process"
    return None


def free_port(host: str) -> int:
    """A port that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def _listener(port: int) -> str | None:
    """The process that listens at a port of this machine; other users' processes can't be seen."""
    with suppress(psutil.AccessDenied, psutil.NoSuchProcess):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return None
