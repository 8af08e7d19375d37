"""Where in a witness's file the last checkpoint of each log is, so that nobody reads a year of them at every start.

It lies beside the witness, and whoever can write one can write the other. What stands at the places that it names is
read, and so is what was written since; without it, or where it does not fit, the whole file is.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

SAVE_EVERY: Final = 1 << 20
"""Bytes of new lines after which the index is worth writing anew."""


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
        """Read the index of a witness; one that is not there, or does not fit the file, is begun anew."""
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
