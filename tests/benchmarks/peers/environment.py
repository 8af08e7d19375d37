"""Where the peers are, as `make bench-peers` makes them: a Python environment, npm's folder, programs built with Go."""

import subprocess
from functools import cache
from pathlib import Path
from typing import Final

HOME: Final = Path("build/bench-peers")
READY: Final = HOME / ".ready"
PYTHON: Final = HOME / "venv" / "bin" / "python"
RESTATE: Final = HOME / "node_modules" / "@restatedev"
TEMPORAL: Final = HOME / "temporal"


def has_dbos() -> bool:
    """Say whether the peers' Python packages are there."""
    return READY.exists()


def has_restate() -> bool:
    """Say whether Restate's server is there too, which npm brings."""
    return has_dbos() and any(RESTATE.glob("restate-server-*/bin/restate-server"))


def has_temporal() -> bool:
    """Say whether Temporal's server and its tool for the database are there too, which Go has built."""
    return has_dbos() and all((TEMPORAL / program).exists() for program in ("server", "sql"))


@cache
def version_of(package: str) -> str:
    """Give the version of a package in the peers' environment."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([PYTHON, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
