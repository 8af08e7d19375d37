"""The files that the rules are about."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "sagas", "infra", "producers", "consumers")


@cache
def tracked() -> tuple[Path, ...]:
    """List the project's own files: those that git knows, or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    return tuple(ROOT / name for name in sorted(set(names)) if name and (ROOT / name).is_file())


def python_files() -> list[Path]:
    """List the Python files of the packages and the tests."""
    return [path for path in tracked() if path.suffix == ".py"]


def shipped_files() -> list[Path]:
    """List the Python files that users get."""
    return [path for path in python_files() if path.relative_to(ROOT).parts[0] in PACKAGES]


def named(path: Path) -> str:
    """Name a file as a person would."""
    return str(path.relative_to(ROOT))


@cache
def parsed(path: Path) -> ast.Module:
    """Parse a Python file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """Yield what a file imports: modules, and names with their modules."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{each.name}" for each in node.names)
