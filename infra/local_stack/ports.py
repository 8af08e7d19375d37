"""Free TCP ports on loopback, chosen once and remembered."""

import secrets
import shutil
import socket
from pathlib import Path

from tradesaga.infra.errors import unavailable

MEGABYTE = 1024 * 1024

ROOM_NEEDED = 500


def require_room(folder: Path) -> None:
    """Raise CommandError when the disk of `folder` has less than `ROOM_NEEDED` megabytes free."""
    free = shutil.disk_usage(folder).free // MEGABYTE
    if free < ROOM_NEEDED:
        raise unavailable(
            "disk-full",
            f"only {free} MB are free and the servers need {ROOM_NEEDED} MB",
            str(folder),
            "free some space there, or choose a folder on another disk with --dir",
        )


LOOPBACK = "127.0.0.1"

LOWEST = 15000

ATTEMPTS = 1000

LOCAL_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")

USUAL_EPHEMERAL_START = 32768

_GIVEN: set[int] = set()


"""What this process has chosen: several ports are chosen before the first server listens."""


def free_port() -> int:
    """Choose a port that nothing uses now, never the same twice, below those that the kernel lends to outgoing ones.

    Were it one of those, a client that keeps connecting to a server which is down could be lent the server's own
    port, connect to itself, and so keep the server from coming back.
    """
    ceiling = _ephemeral_start()
    for _ in range(ATTEMPTS):
        port = LOWEST + secrets.randbelow(max(ceiling - LOWEST, 1000))
        if port not in _GIVEN and not is_taken(port):
            _GIVEN.add(port)
            return port
    raise unavailable("port-missing", "no free port was found", LOOPBACK, "stop some of the programs that listen there")


def is_taken(port: int) -> bool:
    """Return whether a server could not bind the port; connections in TIME_WAIT do not count."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return True
        return False


def accepts(port: int) -> bool:
    """Return whether something answers on the port within a second."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((LOOPBACK, port)) == 0


def claim(port: int, server: str, state_file: str) -> int:
    """Return the port back if it is free, or choose one when it is 0.

    Raises CommandError when a remembered port is taken: clients may have kept it, so it is not changed silently.
    """
    if port == 0:
        return free_port()
    if is_taken(port):
        raise unavailable(
            "port-taken",
            f"port {port} of {server} is taken by another program",
            f"{LOOPBACK}:{port}",
            f"stop that program, or set the port to 0 in {state_file} to have another one chosen",
        )
    return port


def _ephemeral_start() -> int:
    try:
        return int(LOCAL_PORT_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return USUAL_EPHEMERAL_START
