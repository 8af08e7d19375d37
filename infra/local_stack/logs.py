"""The logs of a stack's processes, as they are or as they grow."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tradesaga.infra.errors import CommandError, ExitCode

POLL_SECONDS = 0.2
LAST_BYTES = 64 * 1024


def log_files(home: Path, name: str | None) -> list[Path]:
    """Find the log of one process, or all. Raises CommandError (exit 3) when there is none of that name."""
    folder = home / "logs"
    found = sorted(folder.glob("*.log")) if name is None else [folder / f"{name}.log"]
    missing = not found or not all(file.exists() for file in found)
    if missing:
        known = ", ".join(sorted(file.stem for file in folder.glob("*.log"))) or "none yet"
        what = f"there is no log of {name}" if name else "there are no logs"
        raise CommandError("log-unknown", what, str(folder), f"known: {known}", ExitCode.NOT_FOUND)
    return found


def last_lines(file: Path, count: int) -> list[str]:
    """Return the last lines of a log, of its last 64 KiB at most."""
    with file.open("rb") as log:
        size = log.seek(0, 2)
        log.seek(max(0, size - LAST_BYTES))
        return log.read().decode(errors="replace").splitlines()[-count:]


def follow(folder: Path, wanted: str | None, is_over: Callable[[], bool]) -> Iterator[tuple[str, str]]:
    """Yield (process, line) as logs grow, new ones included, until `is_over`; one made anew is read from its start."""
    pattern = f"{wanted or '*'}.log"
    positions = {file: file.stat().st_size for file in folder.glob(pattern)}
    while not is_over():
        for file in sorted(folder.glob(pattern)):
            start = positions.get(file, 0)
            end = file.stat().st_size
            lines, positions[file] = _read_lines(file, start if start <= end else 0)
            yield from ((file.stem, line) for line in lines)
        time.sleep(POLL_SECONDS)


def _read_lines(file: Path, start: int) -> tuple[list[str], int]:
    """Read whole lines only; give them and where the next one begins."""
    with file.open("rb") as log:
        log.seek(start)
        whole, newline, _ = log.read().rpartition(b"\n")
    if not newline:
        return [], start
    return whole.decode(errors="replace").splitlines(), start + len(whole) + 1
