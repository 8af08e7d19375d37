"""The witness: checkpoints kept outside the database and Kafka, a JSON object a line, only ever appended.

Whoever can rewrite the database and the topics must not be able to rewrite this file: keep it on another machine, or
have it copied there.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson


class WitnessError(Exception):
    """The witness's file cannot be read or written."""


@dataclass(frozen=True, slots=True)
class Witnessed:
    """One checkpoint as it was signed."""

    origin: str
    size: int
    note: str


class WitnessFile:
    """A witness in a file of this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, seen: Iterable[Witnessed]) -> None:
        """Write checkpoints, and return once the disk has them. Raises `WitnessError`."""
        lines = b"".join(
            orjson.dumps({"origin": each.origin, "size": each.size, "note": each.note}) + b"\n" for each in seen
        )
        if not lines:
            return
        try:
            with self._path.open("ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise WitnessError(f"{self._path}: {error.strerror}") from error

    def read(self) -> Iterator[Witnessed]:
        """Give all checkpoints, oldest first; a last line that was cut off by a crash is passed over.

        A file that is not there has none. Raises `WitnessError`.
        """
        if not self._path.exists():
            return
        try:
            with self._path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):
                        return
                    yield self._parse(number, line)
        except OSError as error:
            raise WitnessError(f"{self._path}: {error.strerror}") from error

    def _parse(self, number: int, line: bytes) -> Witnessed:
        try:
            raw = orjson.loads(line)
            return Witnessed(str(raw["origin"]), int(raw["size"]), str(raw["note"]))
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise WitnessError(f"{self._path}: line {number} is no checkpoint") from error
