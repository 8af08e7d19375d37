r"""The witness: checkpoints kept outside the database and Kafka, one JSON object per line, append-only.

Whoever can rewrite the database and the topics must not be able to rewrite this file: keep it on another machine, or
copy it there. A line truncated by a crash is ended with "\0\n" by the next writer, and skipped by readers.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import orjson

SAVE_EVERY: Final = 1 << 20
"""Bytes of new lines after which the index is written again."""


@dataclass(slots=True)
class WitnessIndex:
    """The places of the last lines of each log among the file's first `read` bytes."""

    path: Path
    read: int
    last: dict[str, int]
    saved: int

    @classmethod
    def empty(cls, witness: Path) -> "WitnessIndex":
        """Begin with nothing read."""
        return cls(witness.with_name(witness.name + ".index"), 0, {}, 0)

    @classmethod
    def load(cls, witness: Path) -> "WitnessIndex":
        """Read the index of a witness; return an empty one if it is missing or does not match the file."""
        index = cls.empty(witness)
        try:
            raw = orjson.loads(index.path.read_bytes())
            read, last = int(raw["read"]), {str(origin): int(place) for origin, place in raw["last"].items()}
            with witness.open("rb") as file:
                file.seek(read - 1)
                fits = file.read(1) == b"\n" and all(0 <= place < read for place in last.values())
        except (OSError, orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
            return index
        return cls(index.path, read, last, read) if fits else index

    def take(self, origin: str, start: int, end: int) -> None:
        """Add a line."""
        self.last[origin] = start
        self.read = end

    def save(self) -> None:
        """Write the index if enough was added."""
        if self.read - self.saved < SAVE_EVERY:
            return
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        # A reader without write permission works without an index.
        with contextlib.suppress(OSError):
            new.write_bytes(orjson.dumps({"read": self.read, "last": self.last}))
            new.replace(self.path)
            self.saved = self.read


_TORN: Final = b"\0\n"


class WitnessError(Exception):
    """The witness file cannot be read or written."""


@dataclass(frozen=True, slots=True)
class WitnessEntry:
    """One signed checkpoint; `body` is what was added to its log, for logs that keep it."""

    origin: str
    size: int
    note: str
    body: str = ""

    def to_line(self) -> bytes:
        """Return the entry as a line."""
        told = {"origin": self.origin, "size": self.size, "note": self.note} | (
            {"body": self.body} if self.body else {}
        )
        return orjson.dumps(told) + b"\n"


class WitnessFile:
    """A witness file on this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = 0

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def append(self, seen: Iterable[WitnessEntry]) -> None:
        """Append checkpoints; returns once they are on disk. Raises `WitnessError`."""
        lines = b"".join(each.to_line() for each in seen)
        if not lines:
            return
        try:
            with self._path.open("a+b", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                _write(file, (_TORN if _is_torn(file) else b"") + lines)
        except OSError as error:
            raise WitnessError(f"{self._path}: {error.strerror}") from error
        self._written += len(lines)
        if self._written >= SAVE_EVERY:
            self._written = 0
            self.last()

    def read(self) -> Iterator[WitnessEntry]:
        """Yield all checkpoints, oldest first; truncated lines are skipped and a missing file has none.

        Raises `WitnessError`.
        """
        for position, line in self._lines(0):
            yield self._parse(position, line)

    def last(self) -> dict[str, WitnessEntry]:
        """Return the last checkpoint of each log by origin; an index beside the file saves reading all of it.

        Raises `WitnessError`.
        """
        index = WitnessIndex.load(self._path)
        found = self._indexed(index)
        if found.keys() != index.last.keys():  # an index of another file
            index, found = WitnessIndex.empty(self._path), {}
        for position, line in self._lines(index.read):
            seen = self._parse(position, line)
            found[seen.origin] = seen
            index.take(seen.origin, position, position + len(line))
        index.save()
        return found

    def _indexed(self, index: WitnessIndex) -> dict[str, WitnessEntry]:
        """Return the indexed checkpoints that are at their indexed positions."""
        found: dict[str, WitnessEntry] = {}
        for origin, position in index.last.items():
            with contextlib.suppress(WitnessError):
                seen = self._parse(*next(self._lines(position), (position, b"")))
                if seen.origin == origin:
                    found[origin] = seen
        return found

    def _lines(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Yield complete lines with their positions, from byte `start` on."""
        if not self._path.exists():
            return
        try:
            with self._path.open("rb") as file:
                position = file.seek(start)
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    if not line.endswith(_TORN):
                        yield position, line
                    position += len(line)
        except OSError as error:
            raise WitnessError(f"{self._path}: {error.strerror}") from error

    def _parse(self, position: int, line: bytes) -> WitnessEntry:
        try:
            raw = orjson.loads(line)
            return WitnessEntry(str(raw["origin"]), int(raw["size"]), str(raw["note"]), str(raw.get("body", "")))
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise WitnessError(f"{self._path}: the line at byte {position} is not a checkpoint") from error


def _write(file: BinaryIO, lines: bytes) -> None:
    """Write in one call, so that lines of other processes do not interleave, and sync to disk."""
    if os.write(file.fileno(), lines) < len(lines):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(file.fileno())


def _is_torn(file: BinaryIO) -> bool:
    """Return whether the last line is incomplete, because its writer crashed."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"
