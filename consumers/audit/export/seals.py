"""The checkpoints of an export: read from the database, believed only as far as known keys have signed them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tradesaga.consumers.audit.export.folder_writer import HashedFile
from tradesaga.consumers.audit.export.layout import write_line
from tradesaga.consumers.audit.export.manifest import ClockSummary
from tradesaga.consumers.audit.export.source import Sealed, Source
from tradesaga.infra.audit_log.checkpoint import Checkpoint
from tradesaga.infra.audit_log.note import NoteError, Verifier, open_note
from tradesaga.infra.errors import CommandError

_SPACING: Final = 1000
"""Records between two checkpoints of an export: a break is told to lie between two of them."""


@dataclass
class Seals:
    """What was written of checkpoints, and what they all say of the clocks."""

    trusted: Mapping[bytes, Verifier]
    written: int = 0
    _clocks: dict[str, int] = field(default_factory=dict[str, int])
    _worst: int = -1
    _unknown: int = 0

    def open(self, note: str) -> Checkpoint:
        """Read a checkpoint; raises `CommandError` where no known key has signed it."""
        try:
            return Checkpoint.parse(open_note(note, self.trusted)[0])
        except NoteError as error:
            do = "name the keys that sealed, past ones too, in the .pub file of the key, a line each"
            raise CommandError("checkpoint-unknown", str(error), note.split("\n", 1)[0], do) from error

    async def write(self, file: HashedFile, source: Source, log: Sealed, after: int) -> None:
        """Write those of a log that are larger than `after`, one every thousand records and the last."""
        met = after
        async for size, note in source.notes(log, after):
            self._look_at_clock(note)
            if size - met >= _SPACING or size == log.size:
                met = size
                self.open(note)
                file.write(write_line({"origin": note.split("\n", 1)[0], "size": size, "note": note}))
                self.written += 1

    def _look_at_clock(self, note: str) -> None:
        """Take down what a checkpoint says of the clock."""
        line = next((line for line in note.split("\n") if line.startswith("clock ")), "clock unknown -1")
        source, error = line.removeprefix("clock ").rsplit(" ", 1)
        self._clocks[source] = self._clocks.get(source, 0) + 1
        self._worst = max(self._worst, int(error))
        self._unknown += error == "-1"

    def clock(self) -> ClockSummary:
        """Give what all checkpoints say of the clocks."""
        return ClockSummary(
            checkpoints=sum(self._clocks.values()),
            sources=self._clocks,
            worst_error_ns=self._worst,
            unknown=self._unknown,
        )
