"""Checkpoints: the state of a log at one moment in the format of c2sp.org/tlog-checkpoint, with extension lines.

<origin>                     which log: log id / topic / partition
<size>
<root, base64>
next-offset <n>              the first offset that is not in the log
previous <sha256, hex>       of the checkpoint before, as it was signed; empty for the first
time <nanoseconds>           of the machine that signed
clock <source> <error ns>    the maximum error of that machine's clock; `unknown -1` if unknown

A log that holds a record whose hash is of format 2 has checkpoints of format 2, with two more lines:

format 2
leaf-format 2 from <n>       the first offset whose record is hashed in format 2: all before it are of format 1
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from tradesaga.infra.audit_log.merkle import HASH_BYTES
from tradesaga.infra.audit_log.note import NoteError


class Origin(NamedTuple):
    """The log of one partition; `log_id` names the installation, without spaces or line ends."""

    log_id: str
    topic: str
    partition: int

    def __str__(self) -> str:
        """Return the origin line of checkpoints."""
        return f"{self.log_id}/{self.topic}/{self.partition}"

    @classmethod
    def parse(cls, text: str) -> "Origin":
        """Parse what `str` returned. Raises `NoteError`."""
        log_id, _, rest = text.rpartition("/")[0].rpartition("/")
        partition = text.rpartition("/")[2]
        if not log_id or not rest or not partition.isascii() or not partition.isdigit():
            raise NoteError(f"{text!r} is not an origin of the form log id / topic / partition")
        return cls(log_id, rest, int(partition))


_SHOWN = 200
"""Characters of a text that an error quotes."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint. Times are nanoseconds since 1970."""

    origin: str
    size: int
    root: bytes
    next_offset: int
    previous: str
    time: int
    clock: str = "unknown"
    clock_error: int = -1
    leaves_from: int | None = None
    """The first offset whose hash is of format 2, where there is one."""

    def to_text(self) -> str:
        """Return the text that is signed."""
        return (
            f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"
            f"next-offset {self.next_offset}\nprevious {self.previous}\ntime {self.time}\n"
            f"clock {self.clock} {self.clock_error}\n"
            + (f"format 2\nleaf-format 2 from {self.leaves_from}\n" if self.leaves_from is not None else "")
        )

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Parse what `to_text` returned. Raises `NoteError`."""
        try:
            origin, size, root, *lines, end = text.split("\n")
            fields = dict(line.split(" ", 1) for line in lines)
            if (form := fields.get("format", "2")) != "2":
                raise NoteError(f"checkpoint format {form} is not supported: {origin}")
            clock, clock_error = fields["clock"].rsplit(" ", 1)
            leaves = fields.get("leaf-format")
            checkpoint = cls(
                origin=origin,
                size=_number(size),
                root=base64.b64decode(root, validate=True),
                next_offset=_number(fields["next-offset"]),
                previous=fields["previous"],
                time=_number(fields["time"]),
                clock=clock,
                clock_error=int(clock_error),
                leaves_from=_number(leaves.removeprefix("2 from ")) if leaves is not None else None,
            )
        except (ValueError, KeyError, binascii.Error) as error:
            raise NoteError(
                f"not a checkpoint of this installation: {text.partition(chr(10))[0][:_SHOWN]!r}"
            ) from error
        if end or len(checkpoint.root) != HASH_BYTES or checkpoint.to_text() != text:
            raise NoteError(f"not a checkpoint of this installation: {origin[:_SHOWN]!r}")
        return checkpoint


def hash_note(note: str) -> str:
    """Return the hash by which the next checkpoint refers to this one."""
    return hashlib.sha256(note.encode()).hexdigest()


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or (text.startswith("0") and text != "0"):
        raise ValueError(text)
    return int(text)


def leaves_from(checkpoints: Iterable[Checkpoint]) -> int:
    """Return the first offset of a log whose hash is of format 2, according to its checkpoints.

    If none states it, everything that they cover is of format 1.
    """
    known = list(checkpoints)
    stated = [each.leaves_from for each in known if each.leaves_from is not None]
    return min(stated) if stated else max((each.next_offset for each in known), default=0)


def parse_unverified(note: str) -> Checkpoint:
    """Parse a signed checkpoint without verifying its signatures. Raises `NoteError`."""
    return Checkpoint.parse(note.rpartition("\n\n")[0] + "\n")
