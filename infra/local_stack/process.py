"""Background processes that outlive the command that starts them, identified by pid and start time."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from tradesaga.infra.errors import CommandError, unavailable
from tradesaga.infra.local_stack.state import ProcessId

POLL_SECONDS = 0.05
TAIL_BYTES = 4096
LARGEST_LOG = 20 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Launch:
    """A program to start in the background; `account` is the user id to run it under, None the present one."""

    argv: Sequence[str]
    log: Path
    folder: Path
    environment: Mapping[str, str]
    account: int | None = None


def launch(program: Launch) -> ProcessId:
    """Start the program in a new session; its output is appended to its log."""
    program.log.parent.mkdir(parents=True, exist_ok=True)
    _rotate(program.log)
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
            extra_groups=None if program.account is None else (),
        )
    child.returncode = 0  # the state file has it from here on; otherwise Popen warns that the child still runs
    # While we live, we must reap it: to PostgreSQL, a dead postmaster that nobody has reaped is alive.
    threading.Thread(target=_reap, args=(child.pid,), name=f"reap {child.pid}", daemon=True).start()
    return identify(child.pid)


def _reap(pid: int, options: int = 0) -> None:
    with contextlib.suppress(ChildProcessError):  # not our child, or reaped already
        os.waitpid(pid, options)


def identify(pid: int) -> ProcessId:
    """Return the pid and start time of a running process; the start time is 0 if there is none."""
    try:
        return ProcessId(pid=pid, started=psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return ProcessId(pid=pid, started=0.0)


def find(process: ProcessId | None) -> psutil.Process | None:
    """Return the process that was started, or None if it has ended, even if its pid is in use again.

    A process whose first thread has ended before the others has the state of a zombie, but still holds its files and
    ports: it has not ended.
    """
    if process is None:
        return None
    try:
        found = psutil.Process(process.pid)
        same = abs(found.create_time() - process.started) < 1.0
        if same and found.status() == psutil.STATUS_ZOMBIE and found.num_threads() <= 1:
            _reap(process.pid, os.WNOHANG)
            return None
    except psutil.NoSuchProcess:
        return None
    return found if same else None


def is_alive(process: ProcessId | None) -> bool:
    """Return whether the process that was started still runs."""
    return find(process) is not None


def stop(process: ProcessId | None, first: signal.Signals = signal.SIGTERM, patience: float = 30.0) -> bool:
    """Signal the process, wait `patience` seconds, then kill it; return False if it had to be killed."""
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
    """Wait up to `patience` seconds until the process has ended; return False if it has not."""
    until = time.monotonic() + patience
    while is_alive(process):
        if time.monotonic() > until:
            return False
        time.sleep(POLL_SECONDS)
    return True


def becomes_ready(process: ProcessId, is_ready: Callable[[], bool], until: float) -> bool:
    """Wait until `is_ready`; return False if the process ends before, or at the monotonic time `until`."""
    while is_alive(process) and time.monotonic() < until:
        if is_ready():
            return True
        time.sleep(POLL_SECONDS)
    return False


def last_lines(log: Path, count: int, most_bytes: int) -> list[str]:
    """Return the last lines of a log, from its last `most_bytes`."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - most_bytes))
        return file.read().decode(errors="replace").splitlines()[-count:]


def tail(log: Path, lines: int = 5) -> str:
    """Return the last lines of a log as one line, for an error message."""
    found = last_lines(log, lines, TAIL_BYTES) if log.exists() else []
    return " | ".join(line.strip() for line in found if line.strip()) or "its log is empty"


def not_started(code: str, server: str, log: Path) -> CommandError:
    """Return the error for a server that does not start."""
    what = f"{server} did not start: {tail(log, 2)}"
    return unavailable(code, what, str(log), "read the log, correct the cause, then start again")


def run_tool(code: str, tool: str, argv: Sequence[str], folder: Path, **options: Any) -> None:
    """Run a program in `folder` until it ends. Raises CommandError (exit 5) with its last lines if it fails."""
    result = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False, **options)
    if result.returncode != 0:
        last = " | ".join((result.stderr or result.stdout).strip().splitlines()[-3:])
        raise unavailable(code, f"{tool} failed: {last}", str(folder), "correct the cause, then start again")


def find_package(code: str, module: str, purpose: str, alternative: str) -> Path:
    """Return the folder of an installed package. Raises CommandError (exit 5) if it is not installed."""
    package = find_spec(module)
    if package is None or package.origin is None:
        name = f"package {module.replace('_', '-')}"
        do = f"run `pip install 'tradesaga[stack]'`, or {alternative}"
        raise unavailable(code, f"{purpose} not installed", name, do)
    return Path(package.origin).parent


def server_environment(**values: str) -> dict[str, str]:
    """Return the environment of a server, which inherits nothing from the user's."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", **values}


def _rotate(log: Path) -> None:
    """Rename a log that has grown large; one old log is kept."""
    if log.exists() and log.stat().st_size > LARGEST_LOG:
        log.replace(log.with_suffix(".log.1"))
