"""Processes that outlive the command that started them, known by pid and start time."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tradesaga.infra.local_stack.state import ProcessId

POLL_SECONDS = 0.05
TAIL_BYTES = 4096
LARGEST_LOG = 20 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Launch:
    """All that is needed to start a program in the background; `account` is a user id to run it under."""

    argv: Sequence[str]
    log: Path
    folder: Path
    environment: Mapping[str, str]
    account: int | None = None


def launch(program: Launch) -> ProcessId:
    """Start the program in a session of its own, its output appended to its log."""
    program.log.parent.mkdir(parents=True, exist_ok=True)
    _turn_over(program.log)
    with program.log.open("ab") as log:
        child = subprocess.Popen(
            list(program.argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=program.folder,
            env=dict(program.environment),
            start_new_session=True,
            user=program.account,
            group=program.account,
            extra_groups=None if program.account is None else [],
        )
    child.returncode = 0  # the state file keeps it from here on; without this its end would warn of a running child
    # While we live its end is ours to collect: PostgreSQL takes a dead postmaster that nobody has collected for alive.
    threading.Thread(target=_collect, args=(child.pid,), name=f"collect {child.pid}", daemon=True).start()
    return identify(child.pid)


def _collect(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):  # somebody else has
        os.waitpid(pid, 0)


def identify(pid: int) -> ProcessId:
    """Return the id of a running process with its start time, so that a reused pid is not mistaken for it."""
    try:
        return ProcessId(pid=pid, started=psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return ProcessId(pid=pid, started=0.0)


def find(process: ProcessId | None) -> psutil.Process | None:
    """Return the very process that was started, or None when it has ended, though its number may be in use again.

    A process whose first thread has ended before the others looks like a zombie to the system, and still holds its
    files and ports: it has not ended.
    """
    if process is None:
        return None
    try:
        found = psutil.Process(process.pid)
        same = abs(found.create_time() - process.started) < 1.0
        if same and found.status() == psutil.STATUS_ZOMBIE and found.num_threads() <= 1:
            _reap(process.pid)
            return None
    except psutil.NoSuchProcess:
        return None
    return found if same else None


def is_alive(process: ProcessId | None) -> bool:
    """Return whether the process that was started still runs."""
    return find(process) is not None


def stop(process: ProcessId | None, first: signal.Signals = signal.SIGTERM, patience: float = 30.0) -> bool:
    """Terminate the process, wait `patience` seconds, then kill it; False when it had to be killed."""
    found = find(process)
    if found is None:
        return True
    found.send_signal(first)
    if wait_for_end(process, patience):
        return True
    found.kill()
    wait_for_end(process, 10.0)
    return False


def wait_for_end(process: ProcessId | None, patience: float) -> bool:
    """Wait, in seconds, until the process is gone; False when it is still there."""
    until = time.monotonic() + patience
    while is_alive(process):
        if time.monotonic() > until:
            return False
        time.sleep(POLL_SECONDS)
    return True


def tail(log: Path, lines: int = 5) -> str:
    """Return the last lines of a log as one line, for an error message."""
    if not log.exists():
        return "its log is empty"
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - TAIL_BYTES))
        text = file.read().decode(errors="replace")
    return " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip()) or "its log is empty"


def _turn_over(log: Path) -> None:
    """Rotate a log that has grown large, keeping one old generation."""
    if log.exists() and log.stat().st_size > LARGEST_LOG:
        log.replace(log.with_suffix(".log.1"))


def _reap(pid: int) -> None:
    """Collect an ended child of ours, so that its number is free again."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # not our child: whoever started it collects it
