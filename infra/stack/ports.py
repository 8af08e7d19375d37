"""Free TCP ports on loopback, chosen once and remembered."""

import socket

from infra.errors import unavailable

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """Ask the kernel for a port that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return int(listener.getsockname()[1])


def is_taken(port: int) -> bool:
    """Tell whether a server could not bind the port; connections in TIME_WAIT do not count."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return True
        return False


def accepts(port: int) -> bool:
    """Tell whether something answers on the port within a second."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((LOOPBACK, port)) == 0


def claim(port: int, server: str, state_file: str) -> int:
    """Give the port back if it is free, or choose one when it is 0.

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
