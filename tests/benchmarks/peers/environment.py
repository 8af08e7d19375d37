"""Where the peers' packages are: a Python environment and a folder of npm's, both made by `make bench-peers`."""

import subprocess
from functools import cache
from pathlib import Path
from typing import Final

HOME: Final = Path("build/bench-peers")
READY: Final = HOME / ".ready"
PYTHON: Final = HOME / "venv" / "bin" / "python"
RESTATE: Final = HOME / "node_modules" / "@restatedev"


def has_dbos() -> bool:
    """Say whether the peers' Python packages are there."""
    return READY.exists()


def has_restate() -> bool:
    """Say whether Restate's server is there too, which npm brings."""
    return has_dbos() and any(RESTATE.glob("restate-server-*/bin/restate-server"))


@cache
def version_of(package: str) -> str:
    """Give the version of a package in the peers' environment."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([PYTHON, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
