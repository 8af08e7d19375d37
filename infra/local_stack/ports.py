"""Ports and disk space for local servers."""

import secrets
import shutil
import socket
from pathlib import Path

from tradesaga.infra.errors import unavailable

MEGABYTE = 1024 * 1024
ROOM_NEEDED = 500


def require_room(folder: Path) -> None:
    """Raise CommandError (exit 5) if less than `ROOM_NEEDED` megabytes are free on the disk of `folder`."""
    free = shutil.disk_usage(folder).free // MEGABYTE
    if free < ROOM_NEEDED:
        raise unavailable(
            "disk-full",
            f"only {free} MB are free; the servers need {ROOM_NEEDED} MB",
            str(folder),
            "free disk space there, or give a folder on another disk with --dir",
        )


LOOPBACK = "127.0.0.1"
LOWEST = 15000
ATTEMPTS = 1000
LOCAL_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")

USUAL_EPHEMERAL_START = 32768

_GIVEN: set[int] = set()
"""Ports that this process has chosen: several are chosen before the first server listens."""


def free_port() -> int:
    """Return a free port below the kernel's range for outgoing connections, a different one on each call.

    With a port in that range, a client that keeps connecting to a stopped server could be assigned the server's own
    port, connect to itself, and so prevent the server's start.
    """
    ceiling = _ephemeral_start()
    for _ in range(ATTEMPTS):
        port = LOWEST + secrets.randbelow(max(ceiling - LOWEST, 1000))
        if port not in _GIVEN and not is_taken(port):
            _GIVEN.add(port)
            return port
    raise unavailable("port-missing", "no free port was found", LOOPBACK, "stop some of the programs that listen there")


def is_taken(port: int) -> bool:
    """Return whether the port cannot be bound; connections in TIME_WAIT do not count."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return True
        return False


def accepts(port: int) -> bool:
    """Return whether the port accepts a connection within a second."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((LOOPBACK, port)) == 0


def claim(port: int, server: str, state_file: str) -> int:
    """Return the port if it is free, or a free one if it is 0.

    Raises CommandError (exit 5) if a stored port is in use: it is not changed silently, since clients may know it.
    """
    if port == 0:
        return free_port()
    if is_taken(port):
        raise unavailable(
            "port-taken",
            f"port {port} of {server} is in use by another program",
            f"{LOOPBACK}:{port}",
            f"stop that program, or set the port to 0 in {state_file} to choose another one",
        )
    return port


def _ephemeral_start() -> int:
    try:
        return int(LOCAL_PORT_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return USUAL_EPHEMERAL_START
