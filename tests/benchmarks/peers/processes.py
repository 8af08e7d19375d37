"""Programs of the peers: servers that just run, and workers that take orders as lines and answer each with one."""

import json
import subprocess
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.peers.environment import PYTHON


@contextmanager
def process(argv: Sequence[str], environment: Mapping[str, str]) -> Generator[psutil.Process]:
    """Run a program while the body lasts; that it has ended by itself is an error."""
    child = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield psutil.Process(child.pid)
        if child.poll() is not None:
            raise RuntimeError(f"{argv[0]} has ended by itself")
    finally:
        child.terminate()
        child.wait(30)


@contextmanager
def worker(module: str, *arguments: str) -> Generator[subprocess.Popen[str]]:
    """Run one of the peers' modules in their environment; it says a line when it is ready for orders."""
    argv = [str(PYTHON), "-m", f"tests.benchmarks.peers.{module}", *arguments]
    with subprocess.Popen(
        argv, cwd=Path.cwd(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        try:
            yield child
        finally:
            child.terminate()


def order(child: subprocess.Popen[str], what: Mapping[str, Any]) -> None:
    """Give a worker an order."""
    if child.stdin is None:
        raise RuntimeError("a worker takes no orders")
    child.stdin.write(json.dumps(what) + "\n")
    child.stdin.flush()


def line(child: subprocess.Popen[str]) -> str:
    """Wait for a worker's next line."""
    said = child.stdout.readline() if child.stdout else ""
    if not said:
        raise RuntimeError(f"{child.args} has ended by itself; run it by hand to see why")
    return said
